package harden

import (
	"io/fs"
	"os"
)

// keepOwner does nothing: a new file has its owner from its folder.
func keepOwner(*os.File, fs.FileInfo) error { return nil }
