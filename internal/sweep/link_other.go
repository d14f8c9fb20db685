//go:build !linux

package sweep

import (
	"context"

	"gatehouse/internal/target"
)

// FindLinks finds none: raw sweeps are for Linux. The error is ErrSystem.
func FindLinks(context.Context, *target.Walk, LinkOptions) ([]*Link, error) { return nil, ErrSystem }
