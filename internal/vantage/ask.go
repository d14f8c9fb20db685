package vantage

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// Ask has the vantage at hostport look at this machine, by the one network,
// tcp4 or tcp6: it looks back the way it was asked.
func Ask(ctx context.Context, network, hostport, token string, config *tls.Config, ports []uint16) (a Answer, err error) {
	body, err := json.Marshal(Question{Ports: ports})
	if err != nil {
		return a, err
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		// No proxy: it would be the one who is looked at.
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr)
		},
		TLSClientConfig: config, TLSHandshakeTimeout: 5 * time.Second, DisableKeepAlives: true,
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime+10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+hostport+Path, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(req) // which follows no redirect
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return a, err
	case resp.StatusCode != http.StatusOK:
		line, _, _ := strings.Cut(string(text[:min(len(text), 200)]), "\n")
		return a, fmt.Errorf("it answered %d: %s", resp.StatusCode, line)
	case len(text) > maxAnswer || json.Unmarshal(text, &a) != nil || len(a.Ports) > MaxPorts:
		return a, errors.New("what answers there is no vantage")
	}
	return a, nil
}
