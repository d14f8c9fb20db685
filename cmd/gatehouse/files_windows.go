package main

// maxFiles is how many files this process may have open, 0 for Windows, where
// memory alone limits that.
func maxFiles() int { return 0 }
