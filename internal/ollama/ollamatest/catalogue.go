package ollamatest

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"time"
)

// Model is one model on a simulated server's disk.
type Model struct {
	Name      string // with its tag
	Size      int64  // bytes on disk
	Digest    string // SHA-256 of the manifest, 64 hexadecimal digits
	Modified  time.Time
	Format    string // "gguf"; "" for a model that lives elsewhere
	Family    string
	Families  []string // {Family} when nil
	Params    string   // as Ollama writes it: "3.2B", "134.52M"
	Quant     string
	Context   int64 // tokens
	Abilities []string
	System    string // the system prompt

	RemoteModel, RemoteHost string // of a model that lives elsewhere
}

// Running is one model in a simulated server's memory.
type Running struct {
	Model
	Memory, VRAM int64 // bytes
	Expires      time.Time
	Context      int64 // tokens
}

// Epoch is the time that catalogues are dated by: files on a simulated server
// are from the months before.
var Epoch = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// library are models of Ollama's library with their published sizes in bytes.
var library = []Model{
	{Name: "llama3.2:3b", Size: 2019393189, Family: "llama", Params: "3.2B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "tools"}},
	{Name: "llama3.2:1b", Size: 1321098329, Family: "llama", Params: "1.2B", Quant: "Q8_0", Context: 131072, Abilities: []string{"completion", "tools"}},
	{Name: "llama3.1:8b", Size: 4920753328, Family: "llama", Params: "8.0B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "tools"}},
	{Name: "llama3:8b", Size: 4661224676, Family: "llama", Params: "8.0B", Quant: "Q4_0", Context: 8192, Abilities: []string{"completion"}},
	{Name: "llama2:latest", Size: 3826793677, Family: "llama", Params: "7B", Quant: "Q4_0", Context: 4096, Abilities: []string{"completion"}},
	{Name: "llama3.3:70b", Size: 42520413916, Family: "llama", Params: "70.6B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "tools"}},
	{Name: "mistral:7b", Size: 4113301824, Family: "llama", Params: "7.2B", Quant: "Q4_0", Context: 32768, Abilities: []string{"completion", "tools"}},
	{Name: "mixtral:8x7b", Size: 26442481545, Family: "llama", Params: "46.7B", Quant: "Q4_0", Context: 32768, Abilities: []string{"completion", "tools"}},
	{Name: "qwen2.5:0.5b", Size: 397821319, Family: "qwen2", Params: "494.03M", Quant: "Q4_K_M", Context: 32768, Abilities: []string{"completion", "tools"}},
	{Name: "qwen2.5:7b", Size: 4683087332, Family: "qwen2", Params: "7.6B", Quant: "Q4_K_M", Context: 32768, Abilities: []string{"completion", "tools"}},
	{Name: "qwen2.5-coder:7b", Size: 4683087561, Family: "qwen2", Params: "7.6B", Quant: "Q4_K_M", Context: 32768, Abilities: []string{"completion", "tools", "insert"}},
	{Name: "qwen2.5:32b", Size: 19851349856, Family: "qwen2", Params: "32.8B", Quant: "Q4_K_M", Context: 32768, Abilities: []string{"completion", "tools"}},
	{Name: "qwen2.5:72b", Size: 47415724625, Family: "qwen2", Params: "72.7B", Quant: "Q4_K_M", Context: 32768, Abilities: []string{"completion", "tools"}},
	{Name: "qwen3:8b", Size: 5225388164, Family: "qwen3", Params: "8.2B", Quant: "Q4_K_M", Context: 40960, Abilities: []string{"completion", "tools", "thinking"}},
	{Name: "qwen3:30b", Size: 18556700761, Family: "qwen3moe", Params: "30.5B", Quant: "Q4_K_M", Context: 262144, Abilities: []string{"completion", "tools", "thinking"}},
	{Name: "deepseek-r1:1.5b", Size: 1117322768, Family: "qwen2", Params: "1.8B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "thinking"}},
	{Name: "deepseek-r1:7b", Size: 4683075440, Family: "qwen2", Params: "7.6B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "thinking"}},
	{Name: "deepseek-r1:14b", Size: 8988112209, Family: "qwen2", Params: "14.8B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "thinking"}},
	{Name: "deepseek-r1:32b", Size: 19851337809, Family: "qwen2", Params: "32.8B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "thinking"}},
	{Name: "deepseek-r1:70b", Size: 42520397873, Family: "llama", Params: "70.6B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "thinking"}},
	{Name: "deepseek-r1:671b", Size: 404430188519, Family: "deepseek2", Params: "671.0B", Quant: "Q4_K_M", Context: 163840, Abilities: []string{"completion", "thinking"}},
	{Name: "smollm2:135m", Size: 270898672, Family: "llama", Params: "134.52M", Quant: "F16", Context: 8192, Abilities: []string{"completion", "tools"}},
	{Name: "tinyllama:latest", Size: 637700138, Family: "llama", Params: "1B", Quant: "Q4_0", Context: 2048, Abilities: []string{"completion"}},
	{Name: "gemma2:9b", Size: 5443152417, Family: "gemma2", Params: "9.2B", Quant: "Q4_0", Context: 8192, Abilities: []string{"completion"}},
	{Name: "gemma3:4b", Size: 3338801804, Family: "gemma3", Params: "4.3B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "vision"}},
	{Name: "gemma3:27b", Size: 17396936941, Family: "gemma3", Params: "27.4B", Quant: "Q4_K_M", Context: 131072, Abilities: []string{"completion", "vision"}},
	{Name: "phi3:mini", Size: 2176178913, Family: "phi3", Params: "3.8B", Quant: "Q4_0", Context: 131072, Abilities: []string{"completion"}},
	{Name: "phi4:14b", Size: 9053116391, Family: "phi3", Params: "14.7B", Quant: "Q4_K_M", Context: 16384, Abilities: []string{"completion"}},
	{Name: "codellama:13b", Size: 7365960935, Family: "llama", Params: "13B", Quant: "Q4_0", Context: 16384, Abilities: []string{"completion"}},
	{Name: "llava:7b", Size: 4733363377, Family: "llama", Families: []string{"llama", "clip"}, Params: "7B", Quant: "Q4_0", Context: 32768, Abilities: []string{"completion", "vision"}},
	{Name: "gpt-oss:20b", Size: 13793441244, Family: "gptoss", Params: "20.9B", Quant: "MXFP4", Context: 131072, Abilities: []string{"completion", "tools", "thinking"}},
	{Name: "gpt-oss:120b", Size: 65369818941, Family: "gptoss", Params: "116.8B", Quant: "MXFP4", Context: 131072, Abilities: []string{"completion", "tools", "thinking"}},
	{Name: "nomic-embed-text:latest", Size: 274302450, Family: "nomic-bert", Params: "137M", Quant: "F16", Context: 2048, Abilities: []string{"embedding"}},
	{Name: "mxbai-embed-large:latest", Size: 669615493, Family: "bert", Params: "334M", Quant: "F16", Context: 512, Abilities: []string{"embedding"}},
	{Name: "all-minilm:latest", Size: 45960996, Family: "bert", Params: "23M", Quant: "F16", Context: 512, Abilities: []string{"embedding"}},
	{Name: "bge-m3:latest", Size: 1157672605, Family: "bert", Params: "566.70M", Quant: "F16", Context: 8192, Abilities: []string{"embedding"}},
}

// cloud are models that run at ollama.com for whoever is signed in there.
var cloud = []Model{
	{Name: "gpt-oss:120b-cloud", Size: 384, Family: "gptoss", Params: "116.8B", Quant: "MXFP4", RemoteModel: "gpt-oss:120b", Context: 131072, Abilities: []string{"completion", "tools", "thinking"}},
	{Name: "deepseek-v3.1:671b-cloud", Size: 405, Family: "deepseek2", Params: "671B", Quant: "FP8", RemoteModel: "deepseek-v3.1:671b", Context: 163840, Abilities: []string{"completion", "tools", "thinking"}},
	{Name: "qwen3-coder:480b-cloud", Size: 382, Family: "qwen3moe", Params: "480B", Quant: "BF16", RemoteModel: "qwen3-coder:480b", Context: 262144, Abilities: []string{"completion", "tools"}},
}

// Library returns the models of Ollama's library with these names, as a server
// that pulled them some time before Epoch has them. A name that the catalogue
// lacks is a mistake of the caller's, and panics.
func Library(names ...string) []Model {
	models := make([]Model, 0, len(names))
	for i, name := range names {
		m, ok := find(library, name)
		if !ok {
			m, ok = find(cloud, name)
		}
		if !ok {
			panic("ollamatest: no model " + name + " in the catalogue")
		}
		models = append(models, m.pulled(seed(name), i))
	}
	return models
}

func find(models []Model, name string) (Model, bool) {
	for _, m := range models {
		if m.Name == name {
			return m, true
		}
	}
	return Model{}, false
}

// pick returns n different models of the library, the same for the same rng.
func pick(rng *rand.Rand, n int) []Model {
	names := make([]string, n)
	for i, k := range rng.Perm(len(library))[:n] {
		names[i] = library[k].Name
	}
	models := Library(names...)
	for i := range models {
		models[i].Modified = models[i].Modified.Add(-time.Duration(rng.Int64N(int64(90 * 24 * time.Hour))))
	}
	return models
}

// pulled fills in what a library model gets when a server pulls it. The same
// model has the same digest everywhere.
func (m Model) pulled(rng *rand.Rand, i int) Model {
	m.Digest = digest(rng)
	m.Modified = Epoch.Add(-time.Duration(i)*31*time.Hour - time.Duration(rng.Int64N(int64(20*time.Hour))))
	if m.RemoteModel != "" {
		m.RemoteHost = "https://ollama.com:443"
	} else {
		m.Format = "gguf"
	}
	return m
}

// seed returns random numbers that depend on name alone.
func seed(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(h.Sum64(), 0x6761746568)) // "gateh"
}

// digest returns 64 random hexadecimal digits.
func digest(rng *rand.Rand) string {
	var b [32]byte
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return hex.EncodeToString(b[:])
}

// Loaded returns m as it is in memory, all of it on graphics processors, until
// five minutes from now.
func Loaded(m Model) Running {
	memory := m.Size + m.Size/5
	return Running{Model: m, Memory: memory, VRAM: memory, Expires: time.Now().Add(5 * time.Minute), Context: 4096}
}

// parameters reads Params back as a number, for model_info.
func (m Model) parameters() int64 {
	var n float64
	var unit string
	if _, err := fmt.Sscanf(m.Params, "%f%s", &n, &unit); err != nil {
		return 0
	}
	switch strings.ToUpper(unit) {
	case "K":
		n *= 1e3
	case "M":
		n *= 1e6
	case "B":
		n *= 1e9
	}
	return int64(n)
}
