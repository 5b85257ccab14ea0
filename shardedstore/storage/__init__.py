"""Read, write and list files on local disks and objects in object stores."""
