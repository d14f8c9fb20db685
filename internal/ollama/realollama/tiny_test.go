package realollama

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"
	"unicode/utf8"
)

func TestTinyIsTheSameEverywhere(t *testing.T) {
	b := Tiny()
	if !bytes.Equal(b, Tiny()) {
		t.Fatal("two calls gave different bytes")
	}
	// Of the file as a real Ollama loaded it. A change here makes every models
	// folder anew, and asks for new captures: go test -update.
	const want = "68347a787e2f5ca0142b53df11fc51c54669ed8b9baaebf160c6704ae84d3dcf"
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != want {
		t.Errorf("sha256 %x, want %s", got, want)
	}
}

func TestTinyHeader(t *testing.T) {
	b := Tiny()
	le := binary.LittleEndian
	if string(b[:4]) != "GGUF" || le.Uint32(b[4:]) != 3 {
		t.Fatalf("starts with % x, want GGUF and version 3", b[:8])
	}
	// embedding, output, output_norm; in each layer nine.
	if got, want := le.Uint64(b[8:]), uint64(3+9*tinyLayers); got != want {
		t.Errorf("%d tensors, want %d", got, want)
	}
	if n := le.Uint64(b[24:]); string(b[32:32+n]) != "general.architecture" {
		t.Errorf("first key is %q", b[32:32+n])
	}
	if len(b)%ggufAlign != 0 {
		t.Errorf("%d bytes, not a multiple of %d", len(b), ggufAlign)
	}
	if len(b) < 300_000 || len(b) > 600_000 {
		t.Errorf("%d bytes, want some 0.4 MB", len(b))
	}
}

func TestHalf(t *testing.T) {
	for n, want := range map[int]uint16{ // IEEE 754 binary16
		0: 0, 1: 0x1000, -1: 0x9000, 2: 0x1400, 3: 0x1600, 512: 0x3400, -512: 0xb400, 1024: 0x3800, 2048: 0x3c00,
	} {
		if got := half(n); got != want {
			t.Errorf("half(%d) = %#04x, want %#04x", n, got, want)
		}
	}
}

func TestTinyVocabulary(t *testing.T) {
	tokens, scores, kinds := tinyVocabulary()
	if len(tokens) != 450 || len(scores) != 450 || len(kinds) != 450 {
		t.Fatalf("%d tokens, %d scores, %d kinds, want 450 each", len(tokens), len(scores), len(kinds))
	}
	seen := make(map[string]bool)
	for _, token := range tokens {
		if seen[token] || !utf8.ValidString(token) {
			t.Errorf("token %q comes twice or is not UTF-8", token)
		}
		seen[token] = true
	}
}
