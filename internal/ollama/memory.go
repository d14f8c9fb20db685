package ollama

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Sizes of models and of their needs are in bytes, printed in GB of 10^9 as
// Ollama prints them. Graphics cards are sold by GB that are GiB of 2^30: a
// "24 GB" card has 24,564 MiB, an H100 81,559 MiB.
const (
	gb  = 1e9
	gib = 1 << 30
)

// Bounds on what a server may claim before it is not believed.
const (
	maxParameters = 1e14
	maxMemory     = 1 << 50 // bytes: 1 PiB
)

// ErrParameters says that a text is no parameter count.
var ErrParameters = errors.New("not a parameter count")

// ParseParameters reads a parameter count as Ollama prints it: "134.52M",
// "3.2B", "22M", and "8x7B" as the makers of mixtures name them, which is read
// as the product and so is too large by the layers that the experts share.
func ParseParameters(s string) (float64, error) {
	fail := func() (float64, error) { return 0, fmt.Errorf("%.32q: %w", s, ErrParameters) }

	number, unit := strings.TrimRight(s, "KMBTkmbt"), 1.0
	switch strings.ToUpper(s[len(number):]) {
	case "":
	case "K":
		unit = 1e3
	case "M":
		unit = 1e6
	case "B":
		unit = 1e9
	case "T":
		unit = 1e12
	default:
		return fail()
	}
	for factor := range strings.SplitSeq(number, "x") {
		// ParseFloat would take signs, exponents, hexadecimal and "inf" too.
		if strings.Trim(factor, "0123456789.") != "" {
			return fail()
		}
		f, err := strconv.ParseFloat(factor, 64)
		if err != nil {
			return fail()
		}
		unit *= f
	}
	if !(0 < unit && unit <= maxParameters) || strings.Count(number, "x") > 1 {
		return fail()
	}
	return unit, nil
}

// bitsPerWeight is how many bits a weight takes in a file of each quantisation,
// all tensors taken together: such a file keeps some tensors at more bits than
// it is named for.
//
// Sources: llama.cpp's tools/quantize/README.md, bits per weight of Llama 3.1
// 8B; for Q3_K_M, Q4_0, Q4_1, Q5_0 and Q5_1 the file sizes that
// tools/quantize/quantize.cpp states for Llama 3 8B (8.03 × 10^9 weights). For
// TQ and the formats of MLX, the layout of a block alone (ggml-common.h; 32
// weights and a scale of 8 bits, or 64 weights, a scale and a bias of 16 bits).
// MXFP4 is between what OpenAI's gpt-oss files have, 4.48 (120b) and 5.28 (20b):
// their experts take 4.25 bits, the rest is BF16.
var bitsPerWeight = map[string]float64{
	"F32": 32, "F16": 16, "BF16": 16,
	"Q8_0": 8.50, "Q6_K": 6.56,
	"Q5_K_M": 5.70, "Q5_K_S": 5.57, "Q5_1": 6.04, "Q5_0": 5.57,
	"Q4_K_M": 4.89, "Q4_K_S": 4.67, "Q4_1": 5.11, "Q4_0": 4.64,
	"Q3_K_L": 4.30, "Q3_K_M": 4.00, "Q3_K_S": 3.64,
	"Q2_K": 3.16, "Q2_K_S": 2.97,
	"IQ4_NL": 4.68, "IQ4_XS": 4.46,
	"IQ3_M": 3.76, "IQ3_S": 3.66, "IQ3_XS": 3.50, "IQ3_XXS": 3.25,
	"IQ2_M": 2.93, "IQ2_S": 2.74, "IQ2_XS": 2.59, "IQ2_XXS": 2.38,
	"IQ1_M": 2.15, "IQ1_S": 2.00,
	"TQ2_0": 2.06, "TQ1_0": 1.69,
	"MXFP4": 4.88, "NVFP4": 4.50, "MXFP8": 8.25, "INT4": 4.50, "INT8": 8.50,
}

// quantAliases are other names in use for the same.
var quantAliases = map[string]string{
	"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M",
	"FP32": "F32", "FP16": "F16", "FLOAT16": "F16", "BFLOAT16": "BF16",
	"FP4": "INT4", "FP8": "INT8",
}

func quantBits(quant string) (name string, bits float64, ok bool) {
	name = strings.ToUpper(quant)
	if alias, is := quantAliases[name]; is {
		name = alias
	}
	bits, ok = bitsPerWeight[name]
	return name, bits, ok
}

// FileBytes is the size of the weights of a model with params parameters in a
// quantisation, in bytes; ok is false for a quantisation that is not known.
// Of 27 files in Ollama's library it is within 10 %; of models with less than
// 10^9 parameters, which have more bits than their quantisation is named for,
// as much as 25 % below.
func FileBytes(params float64, quant string) (size int64, ok bool) {
	_, bits, ok := quantBits(quant)
	if !ok || !(0 < params && params <= maxParameters) {
		return 0, false
	}
	return int64(params * bits / 8), true
}

// How far a model's size may be from what its parameters and quantisation give.
//
// Below: "3B" stands for 2.51 × 10^9 in old releases, "8x7B" for 46.7 × 10^9,
// and some makers shrink single layers below the quantisation in the name.
// Above: small models have a third of their weights in an embedding table of
// higher precision. On top of both come what the size counts and the parameters
// do not: a vision projector, up to 0.9 GB in the library, or an adapter.
const (
	sizeLeast = 0.6
	sizeMost  = 2.0
	sizeExtra = 1 * gb
)

// SizeFits reports whether the size that a server states for m can be that of
// a model with its parameter count and quantisation. known is false where one
// of the three is missing or not understood, and for a model that is not there
// but elsewhere.
func SizeFits(m Model) (fits, known bool) {
	params, err := ParseParameters(m.Details.ParameterSize)
	want, ok := FileBytes(params, m.Details.QuantizationLevel)
	if err != nil || !ok || m.Size.Odd || m.Remote() {
		return false, false
	}
	size := float64(m.Size.N)
	return sizeLeast*float64(want) <= size && size <= sizeMost*float64(want)+sizeExtra, true
}

// Remote reports whether m runs on another host, such as ollama.com, and only
// its name is here.
func (m Model) Remote() bool { return m.RemoteHost != "" || m.RemoteModel != "" }

// DefaultContext is the number of tokens that Ollama keeps room for when nobody
// says: 4,096 on a card with less than 24 GiB, more on larger ones
// (server/routes.go of 0.17.4); the least, because the least memory is asked.
const DefaultContext = 4096

// overhead is what Ollama sets aside on each card for the driver's and its own
// structures: MinimumMemory in ml/device.go of 0.17.4.
const overhead = 457 << 20

// cacheBytes estimates the key-value cache of context tokens.
//
// It takes 2 × layers × KV heads × head size × 2 bytes a token (a key and a
// value, F16). What a list of models tells is the parameter count alone, and
// the cache grows with about its square root: from 128 KiB a token for Llama
// 3.1 8B (32 × 8 × 128), it gives 380 KiB for 70.6B, which has 320, and 56 KiB
// for 1.5B, where Qwen 2.5 has 28. Mixtures with a compressed cache, such as
// DeepSeek's, need less; at the default context that is 1 % of such a model.
func cacheBytes(params float64, context int64) float64 {
	return 128 << 10 * math.Sqrt(params/8e9) * float64(context)
}

// Memory is how much memory a server must have, and what that rests on.
type Memory struct {
	Bytes int64  // 0 when nothing is known
	Basis string // for people; made of our own words and valid model names
}

// ModelMemory is the memory it takes to run m with a context of so many tokens,
// or DefaultContext when context is not positive: weights, cache and overhead.
// Zero for a model that runs elsewhere, or states nothing to go by.
//
// That a model is on disk proves that somebody pulled it, not that it runs
// there; Basis says so.
func ModelMemory(m Model, context int64) Memory { return needOf(&m, context).memory() }

// need is the memory that a model takes, and what that was worked out from.
type need struct {
	model   *Model
	bytes   int64 // 0 when nothing is known
	size    int64 // on disk, where nothing else tells; else 0
	params  float64
	context int64
}

func needOf(m *Model, context int64) need {
	if m.Remote() {
		return need{}
	}
	size := int64(0)
	if !m.Size.Odd && 0 < m.Size.N && m.Size.N <= maxMemory {
		size = m.Size.N
	}
	if context <= 0 {
		context = DefaultContext
	}
	context = min(context, 1<<24)

	params, err := ParseParameters(m.Details.ParameterSize)
	weights, ok := FileBytes(params, m.Details.QuantizationLevel)
	// A file too small for what it claims to be counts with its size.
	if err != nil || !ok || size > 0 && float64(size) < sizeLeast*float64(weights) {
		if size == 0 {
			return need{}
		}
		return need{model: m, bytes: size + overhead, size: size}
	}
	bytes := int64(min(float64(weights)+cacheBytes(params, context)+overhead, maxMemory))
	return need{model: m, bytes: bytes, params: params, context: context}
}

func (n need) memory() Memory {
	if n.bytes == 0 {
		return Memory{}
	}
	name := "a model"
	if ValidName(n.model.Name) {
		name = n.model.Name
	}
	if n.size > 0 {
		return Memory{n.bytes, fmt.Sprintf("%s, pulled, not seen running: %s on disk + %s overhead = %s",
			name, inGB(n.size), inGB(overhead), inGB(n.bytes))}
	}
	quant, bits, _ := quantBits(n.model.Details.QuantizationLevel)
	return Memory{n.bytes, fmt.Sprintf("%s, pulled, not seen running: %s × %.2f bit (%s) + %s context + %s overhead = %s",
		name, humanCount(n.params), bits, quant, humanContext(n.context), inGB(overhead), inGB(n.bytes))}
}

// RunningMemory is the memory that the models loaded now take: their share on
// graphics processors, or all of it when none of it is there.
func RunningMemory(running []Running) Memory { return loadOf(running).memory() }

// load is what the models in memory take, in bytes.
type load struct {
	models      int
	vram, total int64
}

func loadOf(running []Running) (l load) {
	for _, r := range running {
		vram := claimed(r.SizeVRAM)
		total := max(claimed(r.Size), vram)
		if total == 0 {
			continue
		}
		l.models++
		l.vram = min(l.vram+vram, maxMemory)
		l.total = min(l.total+total, maxMemory)
	}
	return l
}

func (l load) memory() Memory {
	loaded := fmt.Sprintf("%d models loaded", l.models)
	if l.models == 1 {
		loaded = "1 model loaded"
	}
	switch {
	case l.models == 0:
		return Memory{}
	case l.vram == 0:
		return Memory{l.total, fmt.Sprintf("%s, %s in main memory, none in VRAM", loaded, inGB(l.total))}
	case l.spilled():
		return Memory{l.vram, fmt.Sprintf("%s, %s in VRAM and %s in main memory", loaded, inGB(l.vram), inGB(l.total-l.vram))}
	}
	return Memory{l.vram, fmt.Sprintf("%s, %s in VRAM", loaded, inGB(l.vram))}
}

// spilled reports whether models lie in main memory that would be faster in
// VRAM, so that there cannot be much more VRAM than is in use. The input layer
// stays in main memory anyway, some percent of a model.
func (l load) spilled() bool { return float64(l.vram) < 0.9*float64(l.total) }

func claimed(i Int) int64 {
	if i.Odd || i.N < 0 || i.N > maxMemory {
		return 0
	}
	return i.N
}

// MinMemory is the least memory that explains what a server shows: what its
// loaded models take, or what its most demanding model on disk would, whichever
// is more. Where loaded models did not fit into VRAM, or run without any, they
// have the last word: what is on disk would fit even less.
func MinMemory(models []Model, running []Running) Memory {
	var most need
	for i := range models {
		if n := needOf(&models[i], 0); n.bytes > most.bytes {
			most = n
		}
	}
	disk := most.memory()
	loaded := loadOf(running)
	now := loaded.memory()
	if now.Bytes >= disk.Bytes || loaded.spilled() {
		return now
	}
	if now.Bytes > 0 {
		disk.Basis += "; " + now.Basis
	}
	return disk
}

// HardwareClass names the smallest usual machine that a memory need fits.
type HardwareClass string

// The classes, from the least. Cards of other sizes count to the next class.
const (
	UnknownHardware HardwareClass = ""
	Consumer8       HardwareClass = "consumer ≤8 GB"
	Consumer12      HardwareClass = "consumer ≤12 GB"
	Consumer16      HardwareClass = "consumer ≤16 GB"
	Consumer24      HardwareClass = "consumer ≤24 GB"
	Workstation48   HardwareClass = "workstation 48 GB"
	DataCentre80    HardwareClass = "data-centre 80 GB (H100/A100)"
	DataCentre141   HardwareClass = "data-centre 141 GB (H200)"
	SeveralGPUs     HardwareClass = "several GPUs"
)

// usable is the share of a card's memory that models can have: the driver, the
// CUDA context and, on a desktop, the screen take 0.3 to 1 GB of 8 to 24.
const usable = 0.95

// ClassFor returns the smallest class whose card holds so many bytes. A need of
// 0 or less is UnknownHardware. One machine's main memory can hold as much: the
// class says how large, not what kind.
func ClassFor(bytes int64) HardwareClass {
	if bytes <= 0 {
		return UnknownHardware
	}
	for _, class := range []struct {
		gib  float64
		name HardwareClass
	}{
		{8, Consumer8},
		{12, Consumer12},
		{16, Consumer16},
		{24, Consumer24},
		{48, Workstation48},
		{80, DataCentre80},
		{141, DataCentre141},
	} {
		if float64(bytes) <= class.gib*gib*usable {
			return class.name
		}
	}
	return SeveralGPUs
}

func inGB(bytes int64) string { return fmt.Sprintf("%.1f GB", float64(bytes)/gb) }

// humanCount writes a parameter count as Ollama does.
func humanCount(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.2fM", n/1e6)
	}
	return fmt.Sprintf("%.0fK", n/1e3)
}

func humanContext(tokens int64) string {
	if tokens%1024 == 0 {
		return fmt.Sprintf("%dk", tokens/1024)
	}
	return strconv.FormatInt(tokens, 10)
}
