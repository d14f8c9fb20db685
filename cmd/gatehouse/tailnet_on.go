//go:build tailnet && ts_omit_peerapiserver

package main

import (
	"context"

	"gatehouse/internal/tailnet"
)

var _ tailnetNode = (*tailnet.Node)(nil)

func init() {
	joinTailnet = func(ctx context.Context, c tailnet.Config) (tailnetNode, error) {
		node, err := tailnet.Join(ctx, c)
		if err != nil {
			return nil, err
		}
		return node, nil
	}
}
