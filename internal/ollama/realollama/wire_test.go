//go:build unix

package realollama

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShape(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: "
	shape := func(raw string) string {
		t.Helper()
		reply, err := ParseReply([]byte(raw), "GET")
		if err != nil {
			t.Fatal(err)
		}
		return reply.Shape()
	}
	first := shape(head + "today\r\nContent-Length: 25\r\n\r\n" + `{"models":[{"name":"a"}]}`)
	for name, c := range map[string]struct {
		raw  string
		same bool
	}{
		"other values":  {head + "later\r\nContent-Length: 25\r\n\r\n" + `{"models":[{"name":"b"}]}`, true},
		"chunked":       {head + "later\r\nTransfer-Encoding: chunked\r\n\r\n19\r\n" + `{"models":[{"name":"b"}]}` + "\r\n0\r\n\r\n", false},
		"other members": {head + "later\r\nContent-Length: 25\r\n\r\n" + `{"models":[{"size":"b"}]}`, false},
		"other order":   {"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n" + `{"models":[{"name":"b"}]}`, false},
		"other status":  {strings.Replace(head, "200", "403", 1) + "x\r\nContent-Length: 25\r\n\r\n" + `{"models":[{"name":"b"}]}`, false},
		"other type":    {strings.Replace(head, "json", "xml", 1) + "x\r\nContent-Length: 25\r\n\r\n" + `{"models":[{"name":"b"}]}`, false},
	} {
		if got := shape(c.raw); (got == first) != c.same {
			t.Errorf("%s: same is %v, want %v:\n%s\n%s", name, !c.same, c.same, first, got)
		}
	}
}

// FuzzShape looks for an answer that cannot be read without harm.
func FuzzShape(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", Version, "*.http"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		reply, err := ParseReply(raw, "GET")
		if err != nil {
			return
		}
		again, err := ParseReply(reply.Raw, "GET")
		if err != nil || again.Shape() != reply.Shape() {
			t.Errorf("read twice, %q has two shapes: %v", raw, err)
		}
	})
}
