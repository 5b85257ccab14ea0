"""What people see: shards, trees and sentences."""
