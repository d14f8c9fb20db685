package ollama_test

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"gatehouse/internal/ollama"
)

func TestParseParameters(t *testing.T) {
	for in, want := range map[string]float64{
		"3.2B": 3.2e9, "134.52M": 134.52e6, "671.0B": 671e9, "8x7B": 56e9, "8x22b": 176e9, "7B": 7e9,
		"22M": 22e6, "109K": 109e3, "1.0T": 1e12, "512": 512, "0.5B": 5e8,
	} {
		if got, err := ollama.ParseParameters(in); err != nil || math.Abs(got-want) > 1e-9*want {
			t.Errorf("ParseParameters(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "B", "x", "0", "0B", "-7B", "+7B", "1e9", "0x10", "NaN", "inf", "Infinity", "7 B", "7BB", "7KB",
		"8x", "x7B", "8x7x2B", "1..2B", ".", "7B\n", "999999T", strings.Repeat("9", 400), "٧B",
	} {
		if got, err := ollama.ParseParameters(in); err == nil {
			t.Errorf("ParseParameters(%q) = %v, want an error", in, got)
		}
	}
}

func FuzzParseParameters(f *testing.F) {
	for _, seed := range []string{"3.2B", "8x7B", "134.52M", "1e9", "0x1B"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := ollama.ParseParameters(in)
		if err == nil && !(0 < got && got <= 1e14) || err != nil && got != 0 {
			t.Errorf("ParseParameters(%q) = %v, %v", in, got, err)
		}
	})
}

// published is what the model pages of Ollama's library state: parameters as
// the API prints them, quantisation, and size in GB of 10^9 bytes, rounded to
// two figures as published. The 405B file's size is llama.cpp's
// tools/quantize/README.md's.
var published = []struct {
	name, params, quant string
	size                float64
}{
	{"smollm2:135m", "134.52M", "F16", 0.271},
	{"nomic-embed-text", "137M", "F16", 0.274},
	{"qwen2.5:0.5b", "494.03M", "Q4_K_M", 0.398},
	{"gemma3:1b", "999.89M", "Q4_K_M", 0.815},
	{"llama3.2:1b", "1.2B", "Q8_0", 1.3},
	{"smollm2:1.7b", "1.7B", "Q8_0", 1.8},
	{"deepseek-r1:1.5b", "1.8B", "Q4_K_M", 1.1},
	{"gemma2:2b", "2.6B", "Q4_0", 1.6},
	{"llama3.2:3b", "3.2B", "Q4_K_M", 2.0},
	{"mistral:7b", "7.2B", "Q4_0", 4.1},
	{"mistral:7b (2025)", "7.2B", "Q4_K_M", 4.4},
	{"deepseek-r1:7b", "7.6B", "Q4_K_M", 4.7},
	{"llama3.1:8b (2024)", "8.0B", "Q4_0", 4.7},
	{"llama3.1:8b", "8.0B", "Q4_K_M", 4.9},
	{"phi4:14b", "14.7B", "Q4_K_M", 9.1},
	{"deepseek-r1:14b", "14.8B", "Q4_K_M", 9.0},
	{"gpt-oss:20b", "20.9B", "MXFP4", 14},
	{"gemma3:27b", "27.4B", "Q4_K_M", 17},
	{"deepseek-r1:32b", "32.8B", "Q4_K_M", 20},
	{"mixtral:8x7b", "46.7B", "Q4_0", 26},
	{"llama3.3:70b", "70.6B", "Q4_K_M", 43},
	{"llama3.3:70b-instruct-q8_0", "70.6B", "Q8_0", 75},
	{"llama3.3:70b-instruct-fp16", "70.6B", "F16", 141},
	{"qwen2.5:72b", "72.7B", "Q4_K_M", 47},
	{"gpt-oss:120b", "116.8B", "MXFP4", 65},
	{"llama3.1:405b", "405.9B", "Q4_K_M", 249.1},
	{"deepseek-r1:671b", "671.0B", "Q4_K_M", 404},
}

func TestFileBytesAgainstPublishedSizes(t *testing.T) {
	// Small models err most: their embedding table, kept at more bits, is a
	// third of them. MXFP4 errs both ways, see bitsPerWeight.
	const most, mostSmall = 0.10, 0.26
	worst, sum := 0.0, 0.0
	t.Logf("%-28s %9s %-7s %9s %9s %6s", "model", "params", "quant", "published", "formula", "error")
	for _, m := range published {
		params, err := ollama.ParseParameters(m.params)
		if err != nil {
			t.Fatal(err)
		}
		size, ok := ollama.FileBytes(params, m.quant)
		if !ok {
			t.Fatalf("%s: %s is not known", m.name, m.quant)
		}
		off := float64(size)/1e9/m.size - 1
		t.Logf("%-28s %9s %-7s %6.2f GB %6.2f GB %+5.1f%%", m.name, m.params, m.quant, m.size, float64(size)/1e9, off*100)
		limit := most
		if params < 1.1e9 {
			limit = mostSmall
		}
		if math.Abs(off) > limit {
			t.Errorf("%s: %+.1f%% off, more than %.0f%%", m.name, off*100, limit*100)
		}
		worst, sum = max(worst, math.Abs(off)), sum+math.Abs(off)

		if fits, known := ollama.SizeFits(model(m.name, m.params, m.quant, m.size*1e9)); !fits || !known {
			t.Errorf("%s: its own size does not fit", m.name)
		}
	}
	t.Logf("%d models: mean error %.1f%%, largest %.1f%%", len(published), sum/float64(len(published))*100, worst*100)
}

func model(name, params, quant string, size float64) ollama.Model {
	return ollama.Model{
		Name: name, Size: ollama.Int{N: int64(size)},
		Details: ollama.Details{ParameterSize: params, QuantizationLevel: quant},
	}
}

func TestFileBytesUnknown(t *testing.T) {
	for _, test := range []struct {
		params float64
		quant  string
	}{
		{7e9, ""}, {7e9, "unknown"}, {7e9, "Q9_9"}, {0, "Q4_0"}, {-1, "Q4_0"}, {math.NaN(), "Q4_0"}, {math.Inf(1), "Q4_0"}, {1e15, "Q4_0"},
	} {
		if size, ok := ollama.FileBytes(test.params, test.quant); ok || size != 0 {
			t.Errorf("FileBytes(%v, %q) = %d, %v", test.params, test.quant, size, ok)
		}
	}
	for quant, same := range map[string]string{"q4_k_m": "Q4_K_M", "Q4_K": "Q4_K_M", "bfloat16": "F16", "fp8": "INT8"} {
		a, _ := ollama.FileBytes(7e9, quant)
		if b, _ := ollama.FileBytes(7e9, same); a != b || a == 0 {
			t.Errorf("%s takes %d bytes, %s %d", quant, a, same, b)
		}
	}
}

func TestSizeFits(t *testing.T) {
	for _, test := range []struct {
		why         string
		m           ollama.Model
		fits, known bool
	}{
		{"with a projector of 0.9 GB", model("moondream:1.8b", "1B", "Q4_0", 1.7e9), true, true},
		{"with a projector", model("llama3.2-vision:11b", "9.8B", "Q4_K_M", 7.9e9), true, true},
		{"3B stands for 2.5", model("gemma:2b", "3B", "Q4_0", 1.7e9), true, true},
		{"8x7B stands for 46.7", model("mixtral", "8x7B", "Q4_0", 26e9), true, true},
		{"70B in 4 GB", model("llama3.3:70b", "70.6B", "Q4_K_M", 4.7e9), false, true},
		{"1B in 4.7 GB", model("llama3.2:1b", "1.2B", "Q4_K_M", 4.7e9), false, true},
		{"8B at 16 bits in 4.7 GB", model("llama3.1:8b", "8.0B", "F16", 4.7e9), false, true},
		{"no bytes", model("llama3.1:8b", "8.0B", "F16", 0), false, true},
		{"negative", model("llama3.1:8b", "8.0B", "F16", -1), false, true},
		{"no parameters", model("x", "", "F16", 5e9), false, false},
		{"unknown quantisation", model("x", "8B", "unknown", 5e9), false, false},
		{"odd size", ollama.Model{Size: ollama.Int{Odd: true}, Details: ollama.Details{ParameterSize: "8B", QuantizationLevel: "Q4_0"}}, false, false},
		{"elsewhere", ollama.Model{RemoteHost: "https://ollama.com", Size: ollama.Int{N: 384}, Details: ollama.Details{ParameterSize: "671B", QuantizationLevel: "Q4_0"}}, false, false},
	} {
		if fits, known := ollama.SizeFits(test.m); fits != test.fits || known != test.known {
			t.Errorf("%s: %v, %v; want %v, %v", test.why, fits, known, test.fits, test.known)
		}
	}
}

func TestMinMemory(t *testing.T) {
	cloud := model("deepseek-v3.1:671b-cloud", "671.0B", "FP8", 382)
	cloud.RemoteHost, cloud.RemoteModel = "https://ollama.com:443", "deepseek-v3.1:671b"
	large, small := model("llama3.3:70b", "70.6B", "Q4_K_M", 42.5e9), model("llama3.2:3b", "3.2B", "Q4_K_M", 2e9)
	loaded := func(size, vram int64) ollama.Running {
		return ollama.Running{Size: ollama.Int{N: size}, SizeVRAM: ollama.Int{N: vram}}
	}
	const largeBasis = "llama3.3:70b, pulled, not seen running: 70.6B × 4.89 bit (Q4_K_M) + 4k context + 0.5 GB overhead = 45.2 GB"
	for _, test := range []struct {
		why     string
		models  []ollama.Model
		running []ollama.Running
		gb      float64
		basis   string
		class   ollama.HardwareClass
	}{
		{"nothing", nil, nil, 0, "", ollama.UnknownHardware},
		{"a model elsewhere", []ollama.Model{cloud}, nil, 0, "", ollama.UnknownHardware},
		{"the largest on disk", []ollama.Model{small, large, cloud}, nil, 45.2, largeBasis, ollama.Workstation48},
		{
			"one loaded, none on disk", nil,
			[]ollama.Running{loaded(43.1e9, 43.1e9), loaded(0, 0)},
			43.1,
			"1 model loaded, 43.1 GB in VRAM", ollama.Workstation48,
		},
		{
			"thousands of parameters",
			[]ollama.Model{model("tiny", "189K", "F16", 390806)},
			nil, 0.5,
			"tiny, pulled, not seen running: 189K × 16.00 bit (F16) + 4k context + 0.5 GB overhead = 0.5 GB", ollama.Consumer8,
		},
		{
			"two loaded",
			[]ollama.Model{small},
			[]ollama.Running{loaded(40e9, 40e9), loaded(3.1e9, 3.1e9)},
			43.1,
			"2 models loaded, 43.1 GB in VRAM", ollama.Workstation48,
		},
		{
			"a small one loaded",
			[]ollama.Model{large},
			[]ollama.Running{loaded(4e9, 4e9)},
			45.2,
			largeBasis + "; 1 model loaded, 4.0 GB in VRAM", ollama.Workstation48,
		},
		{
			"no room in VRAM",
			[]ollama.Model{large},
			[]ollama.Running{loaded(44e9, 22e9)},
			22,
			"1 model loaded, 22.0 GB in VRAM and 22.0 GB in main memory", ollama.Consumer24,
		},
		{
			"no VRAM",
			[]ollama.Model{large},
			[]ollama.Running{loaded(5.4e9, 0)},
			5.4,
			"1 model loaded, 5.4 GB in main memory, none in VRAM", ollama.Consumer8,
		},
		{
			"no parameters",
			[]ollama.Model{model("my/own:v1", "", "", 20e9)},
			nil, 20.5,
			"my/own:v1, pulled, not seen running: 20.0 GB on disk + 0.5 GB overhead = 20.5 GB", ollama.Consumer24,
		},
		{
			"too small for its claim",
			[]ollama.Model{model("llama3.3:70b", "70.6B", "Q4_K_M", 1e9)},
			nil, 1.5,
			"llama3.3:70b, pulled, not seen running: 1.0 GB on disk + 0.5 GB overhead = 1.5 GB", ollama.Consumer8,
		},
		{
			"a hostile name",
			[]ollama.Model{model("\x1b]0;x\a<script>", "3.2B", "Q4_K_M", 2e9)},
			nil, 2.8,
			"a model, pulled, not seen running: 3.2B × 4.89 bit (Q4_K_M) + 4k context + 0.5 GB overhead = 2.8 GB", ollama.Consumer8,
		},
		{
			"absurd claims",
			[]ollama.Model{model("x", "", "", math.MaxInt64)},
			[]ollama.Running{loaded(math.MaxInt64, math.MaxInt64), loaded(-1, -1), {Size: ollama.Int{Odd: true}}},
			0, "", ollama.UnknownHardware,
		},
	} {
		got := ollama.MinMemory(test.models, test.running)
		if got.Basis != test.basis || math.Abs(float64(got.Bytes)/1e9-test.gb) > 0.05 {
			t.Errorf("%s:\ngot  %.2f GB, %s\nwant %.2f GB, %s", test.why, float64(got.Bytes)/1e9, got.Basis, test.gb, test.basis)
		}
		if test.models == nil && ollama.RunningMemory(test.running) != got {
			t.Errorf("%s: RunningMemory differs", test.why)
		}
		if class := ollama.ClassFor(got.Bytes); class != test.class {
			t.Errorf("%s: %s, want %s", test.why, class, test.class)
		}
	}
}

// The estimate of the cache alone against 2 × layers × KV heads × head size × 2
// bytes of models whose architecture is published.
func TestContextMemory(t *testing.T) {
	for _, m := range []struct {
		name                 string
		params               string
		layers, heads, width float64
	}{
		{"llama3.2:1b", "1.2B", 16, 8, 64},
		{"llama3.2:3b", "3.2B", 28, 8, 128},
		{"llama3.1:8b", "8.0B", 32, 8, 128},
		{"qwen2.5:7b", "7.6B", 28, 4, 128},
		{"phi4:14b", "14.7B", 40, 10, 128},
		{"qwen2.5:32b", "32.8B", 64, 8, 128},
		{"llama3.3:70b", "70.6B", 80, 8, 128},
		{"llama3.1:405b", "405.9B", 126, 8, 128},
	} {
		const tokens = 32 << 10
		in := model(m.name, m.params, "Q4_K_M", 0)
		got := float64(ollama.ModelMemory(in, 2*tokens).Bytes-ollama.ModelMemory(in, tokens).Bytes) / tokens
		want := 2 * m.layers * m.heads * m.width * 2
		t.Logf("%-14s %4.0f KiB a token, estimate %4.0f KiB", m.name, want/1024, got/1024)
		if got < want/2.5 || got > want*2.5 {
			t.Errorf("%s: %.0f bytes a token, want %.0f within a factor of 2.5", m.name, got, want)
		}
	}
}

func TestClassFor(t *testing.T) {
	const gib = 1 << 30
	for _, test := range []struct {
		gib  float64
		want ollama.HardwareClass
	}{
		{-1, ollama.UnknownHardware},
		{0, ollama.UnknownHardware},
		{0.1, ollama.Consumer8},
		{7.5, ollama.Consumer8},
		{7.7, ollama.Consumer12},
		{8, ollama.Consumer12},
		{11.3, ollama.Consumer12},
		{15, ollama.Consumer16},
		{22.5, ollama.Consumer24},
		{23.5, ollama.Workstation48},
		{45, ollama.Workstation48},
		{47, ollama.DataCentre80},
		{75, ollama.DataCentre80},
		{79, ollama.DataCentre141},
		{133, ollama.DataCentre141},
		{141, ollama.SeveralGPUs},
		{500, ollama.SeveralGPUs},
	} {
		if got := ollama.ClassFor(int64(test.gib * gib)); got != test.want {
			t.Errorf("ClassFor(%v GiB) = %q, want %q", test.gib, got, test.want)
		}
	}
	if got := ollama.ClassFor(math.MaxInt64); got != ollama.SeveralGPUs {
		t.Errorf("ClassFor(largest) = %q", got)
	}
}

// More parameters, bits or context never need less memory.
func TestMemoryGrows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	quants := []string{"Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32"}
	for range 2000 {
		params, quant, context := rng.IntN(900)+1, rng.IntN(len(quants)-1), rng.Int64N(200_000)+1
		need := func(params, quant int, context int64) int64 {
			m := model("m", "", quants[quant], 0)
			m.Details.ParameterSize = strconv.Itoa(params) + "B"
			return ollama.ModelMemory(m, context).Bytes
		}
		base := need(params, quant, context)
		if base <= 0 || need(params+1, quant, context) <= base || need(params, quant+1, context) <= base || need(params, quant, context*2) <= base {
			t.Fatalf("%dB %s with %d tokens: %d bytes", params, quants[quant], context, base)
		}
	}
}
