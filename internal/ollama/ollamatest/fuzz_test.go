package ollamatest

import (
	"bytes"
	"testing"
)

// FuzzParse holds that a request is read the same whole and in pieces, and that
// what is taken of the buffer lies within it.
func FuzzParse(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 5)
	f.Add([]byte("POST /api/show?x HTTP/1.1\r\nhost:a\r\ncontent-length: 2\r\n\r\n{}GET"), 40)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n"), 60)
	f.Add([]byte("GET / HTTP/1.0\n\n"), 1)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var whole, part Request
		n, err := whole.parse(in)
		if n < 0 || n > len(in) {
			t.Fatalf("took %d of %d bytes", n, len(in))
		}
		if err != nil {
			return
		}
		if cut < 0 || cut >= n {
			return
		}
		if m, err := part.parse(in[:cut]); err == nil && m > cut {
			t.Fatalf("took %d of %d bytes", m, cut)
		}
		if m, err := part.parse(in); err != nil || m != n || !bytes.Equal(part.Body, whole.Body) || !bytes.Equal(part.Target, whole.Target) {
			t.Fatalf("read once %d bytes, body %q; once %d, %q, %v", n, whole.Body, m, part.Body, err)
		}
		s := Ollama{Models: Library("llama3.2:1b")}.Server("fuzz")
		if out := s.answer(nil, &whole); !bytes.HasPrefix(out, []byte("HTTP/1.")) {
			t.Fatalf("answers %q", out)
		}
	})
}
