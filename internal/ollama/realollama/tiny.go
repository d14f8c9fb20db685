package realollama

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Model is the name that a server's tiny model goes by.
const Model = "tiny:latest"

// Modelfile is what the tiny model is created from, beside a file tiny.gguf.
// It has a system prompt and a licence for a scan to find. num_predict ends
// what the model itself never would: see Tiny.
const Modelfile = `FROM ./tiny.gguf
TEMPLATE """{{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} """
SYSTEM You are the doorman of a small house.
LICENSE Random numbers, free for all to use.
PARAMETER num_predict 16
PARAMETER num_ctx 512
PARAMETER seed 1
`

// The shape of the tiny model: the smallest that is still a whole llama.
const (
	tinyLayers  = 2
	tinyWidth   = 64
	tinyForward = 256
	tinyHeads   = 4
	tinyContext = 512
	tinySeed    = 0x6761746568 // "gateh"
)

// GGUF's numbers for the types that we write: its specification,
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
const (
	ggufUint32  = 4
	ggufInt32   = 5
	ggufFloat32 = 6
	ggufString  = 8
	ggufArray   = 9

	ggmlF32   = 0 // a tensor of 32-bit floats
	ggmlF16   = 1 // of 16-bit floats; as a file type: all matrices are
	ggufAlign = 32
)

// The kinds of tokens, as SentencePiece numbers them.
const (
	tokenNormal  = 1
	tokenUnknown = 2
	tokenControl = 3
	tokenByte    = 6
)

// Tiny returns a GGUF version 3 file of the llama architecture with seeded
// random weights: two layers, 64 wide, 450 tokens, F16, about 0.4 MB. Every call
// returns the same bytes on every machine.
//
// What it writes is babble of syllables: the output rows of all control and byte
// tokens are zero, so the best of the syllables always has the better logit.
// That keeps its text valid UTF-8, and it never ends by itself.
func Tiny() []byte {
	tokens, scores, kinds := tinyVocabulary()
	vocab := uint64(len(tokens))

	var g gguf
	g.str("general.architecture", "llama")
	g.str("general.name", "tiny")
	g.u32("general.file_type", ggmlF16)
	g.u32("llama.block_count", tinyLayers)
	g.u32("llama.context_length", tinyContext)
	g.u32("llama.embedding_length", tinyWidth)
	g.u32("llama.feed_forward_length", tinyForward)
	g.u32("llama.attention.head_count", tinyHeads)
	g.u32("llama.attention.head_count_kv", tinyHeads)
	g.u32("llama.rope.dimension_count", tinyWidth/tinyHeads)
	g.f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
	g.u32("llama.vocab_size", uint32(vocab))
	g.str("tokenizer.ggml.model", "llama")
	g.strs("tokenizer.ggml.tokens", tokens)
	g.array("tokenizer.ggml.scores", ggufFloat32, len(scores), scores)
	g.array("tokenizer.ggml.token_type", ggufInt32, len(kinds), kinds)
	g.u32("tokenizer.ggml.unknown_token_id", 0)
	g.u32("tokenizer.ggml.bos_token_id", 1)
	g.u32("tokenizer.ggml.eos_token_id", 2)

	// math/rand/v2 promises PCG's sequence; its Float32 it does not.
	rng := rand.NewPCG(tinySeed, tinySeed)
	random := func(n uint64) []uint16 {
		w := make([]uint16, n)
		for i := range w {
			w[i] = half(int(rng.Uint64()>>54) - 512)
		}
		return w
	}
	matrix := func(name string, in, out uint64) { g.tensor(name, ggmlF16, random(in*out), in, out) }
	norm := func(name string) {
		g.tensor(name, ggmlF32, slices.Repeat([]float32{1}, tinyWidth), tinyWidth)
	}

	matrix("token_embd.weight", tinyWidth, vocab)
	for i := range tinyLayers {
		blk := fmt.Sprintf("blk.%d.", i)
		norm(blk + "attn_norm.weight")
		matrix(blk+"attn_q.weight", tinyWidth, tinyWidth)
		matrix(blk+"attn_k.weight", tinyWidth, tinyWidth)
		matrix(blk+"attn_v.weight", tinyWidth, tinyWidth)
		matrix(blk+"attn_output.weight", tinyWidth, tinyWidth)
		norm(blk + "ffn_norm.weight")
		matrix(blk+"ffn_gate.weight", tinyWidth, tinyForward)
		matrix(blk+"ffn_up.weight", tinyWidth, tinyForward)
		matrix(blk+"ffn_down.weight", tinyForward, tinyWidth)
	}
	norm("output_norm.weight")
	output := random(tinyWidth * vocab)
	for i, kind := range kinds {
		if kind != tokenNormal {
			clear(output[i*tinyWidth : (i+1)*tinyWidth])
		}
	}
	g.tensor("output.weight", ggmlF16, output, tinyWidth, vocab)
	return g.bytes()
}

// half returns n/2048 as a 16-bit float, exactly, for n within -2048 and 2048.
func half(n int) uint16 {
	if n == 0 {
		return 0
	}
	f := math.Float32bits(float32(n) / 2048)
	return uint16(f>>16)&0x8000 | uint16(f>>23&0xff-127+15)<<10 | uint16(f>>13)&0x3ff
}

// tinyVocabulary is a SentencePiece vocabulary: the three control tokens, every
// byte, and syllables with and without a space before them.
func tinyVocabulary() (tokens []string, scores []float32, kinds []int32) {
	add := func(token string, score float32, kind int32) {
		tokens, scores, kinds = append(tokens, token), append(scores, score), append(kinds, kind)
	}
	add("<unk>", 0, tokenUnknown)
	add("<s>", 0, tokenControl)
	add("</s>", 0, tokenControl)
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b), 0, tokenByte)
	}
	const space = "\u2581" // SentencePiece's mark for a space
	add(space, -1, tokenNormal)
	for _, before := range []string{space, ""} {
		for _, c := range "bcdfghjklmnprstvwyz" {
			for _, v := range "aeiou" {
				add(before+string(c)+string(v), -float32(len(tokens)), tokenNormal)
			}
		}
	}
	return tokens, scores, kinds
}

// gguf gathers the parts of a GGUF file. All numbers are little-endian.
type gguf struct {
	meta, info, data bytes.Buffer
	metas, tensors   uint64
}

func put(b *bytes.Buffer, v any) {
	// Only a type with no fixed size can fail, and a Buffer never does.
	if err := binary.Write(b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
}

func putString(b *bytes.Buffer, s string) {
	put(b, uint64(len(s)))
	b.WriteString(s)
}

func (g *gguf) key(name string, kind uint32) {
	g.metas++
	putString(&g.meta, name)
	put(&g.meta, kind)
}

func (g *gguf) u32(name string, v uint32) {
	g.key(name, ggufUint32)
	put(&g.meta, v)
}

func (g *gguf) f32(name string, v float32) {
	g.key(name, ggufFloat32)
	put(&g.meta, math.Float32bits(v))
}

func (g *gguf) str(name, v string) {
	g.key(name, ggufString)
	putString(&g.meta, v)
}

func (g *gguf) array(name string, kind uint32, n int, values any) {
	g.key(name, ggufArray)
	put(&g.meta, kind)
	put(&g.meta, uint64(n))
	put(&g.meta, values)
}

func (g *gguf) strs(name string, values []string) {
	g.array(name, ggufString, len(values), []byte(nil))
	for _, v := range values {
		putString(&g.meta, v)
	}
}

// tensor adds a tensor whose dims are given from the one that varies fastest.
func (g *gguf) tensor(name string, kind uint32, w any, dims ...uint64) {
	g.tensors++
	putString(&g.info, name)
	put(&g.info, uint32(len(dims)))
	put(&g.info, dims)
	put(&g.info, kind)
	put(&g.info, uint64(g.data.Len()))
	put(&g.data, w)
	align(&g.data)
}

func align(b *bytes.Buffer) {
	b.Write(make([]byte, -b.Len()&(ggufAlign-1)))
}

func (g *gguf) bytes() []byte {
	var b bytes.Buffer
	b.WriteString("GGUF")
	put(&b, uint32(3))
	put(&b, g.tensors)
	put(&b, g.metas)
	b.Write(g.meta.Bytes())
	b.Write(g.info.Bytes())
	align(&b)
	b.Write(g.data.Bytes())
	return b.Bytes()
}
