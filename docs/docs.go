// Package docs holds those of the documents that the program installs. It does
// nothing.
package docs

import _ "embed"

// Unit is the gate's unit for systemd.
//
//go:embed gatehouse.service
var Unit []byte
