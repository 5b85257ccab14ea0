"""Jobs as text: the options of a job for job files and for the command line, from one definition."""
