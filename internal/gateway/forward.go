package gateway

import (
	"bytes"
	"io"
	"maps"
	"net/http"

	"gatehouse/internal/key"
)

// forward hands the call to the upstream.
func (c *call) forward() {
	a := newAnswer(c)
	c.answer = a
	c.gate.watch().Streaming(1)
	defer c.gate.watch().Streaming(-1)
	c.gate.Upstream.ServeHTTP(a, c.outgoing())
	if c.answer == a { // and not UpstreamFailed's
		a.finish()
	}
}

// outgoing is the request as the upstream gets it. Nothing of who the caller is
// goes with it: credentials end at the door.
func (c *call) outgoing() *http.Request {
	ctx := c.ctx
	if c.gate.ForModel != nil && c.record.Model != "" {
		ctx = c.gate.ForModel(ctx, c.record.Model)
	}
	out := c.r.WithContext(ctx)
	out.Header = maps.Clone(c.r.Header) // whose values nobody changes
	key.Strip(out.Header)
	out.Header[requestID] = c.w.Header()[requestID]
	delete(out.Header, "Upgrade") // Ollama speaks nothing but HTTP
	switch {
	case c.route.TakesJSON():
		body := c.body
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		out.Body, _ = out.GetBody() // never fails
		out.ContentLength, out.TransferEncoding = int64(len(body)), nil
	case c.r.Body != nil && c.r.Body != http.NoBody:
		// A blob: of any size, as it comes.
		c.noHurry()
		out.Body = &counted{c.r.Body, &c.record.BytesIn}
	}
	return out
}

// counted counts a body that passes.
type counted struct {
	io.ReadCloser
	n *int64
}

func (b *counted) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	*b.n += int64(n)
	return n, err
}
