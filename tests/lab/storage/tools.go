//go:build tools

// Pins the storage servers of the lab.
package storage

import (
	_ "github.com/johannesboyne/gofakes3/cmd/gofakes3"
	_ "github.com/restic/rest-server/cmd/rest-server"
)
