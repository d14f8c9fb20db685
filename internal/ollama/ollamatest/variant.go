package ollamatest

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse/internal/ollama"
)

// releases are the releases that every kind of open Ollama is made in: the ones
// whose answers differ, and those that many servers run.
var releases = []string{
	"0.1.20", "0.1.24", "0.1.27", "0.1.28", "0.1.29", "0.1.32", "0.1.33", "0.1.38", "0.1.41", "0.1.44", "0.1.48",
	"0.2.8", "0.3.0", "0.3.6", "0.3.14", "0.4.0", "0.4.7", "0.5.1", "0.5.4", "0.5.7", "0.5.13", "0.6.2", "0.6.5", "0.6.8",
	"0.7.0", "0.8.0", "0.9.0", "0.9.6", "0.10.1", "0.11.4", "0.11.10", "0.12.0", "0.12.3", "0.12.6", "0.13.0", "0.13.5",
	"0.14.3", "0.15.2", "0.16.1", "0.16.2", "0.17.0", "0.17.4",
}

// Variants returns one server of every kind there is, in a fixed order and with
// the same answers in every run. Their names are unique. Each call makes new
// servers, with nothing counted.
func Variants() []*Server {
	var all []*Server
	for _, v := range releases {
		name := "ollama/" + v
		rng := seed(name)
		o := Ollama{Version: v, Models: pick(rng, 1+rng.IntN(6))}
		if rng.IntN(8) == 0 && atLeast(v, "0.1.38") {
			o.Running = []Running{Loaded(o.Models[0])}
		}
		all = append(all, o.Server(name))
	}
	all = append(all, situations()...)
	for _, l := range locks {
		for _, v := range []string{"0.5.7", Newest} {
			s := Ollama{Version: v, Models: Library("llama3.1:8b", "qwen2.5:7b")}.Server("guard/" + l.name + "/" + v)
			all = append(all, l.guard(s))
		}
	}
	all = append(all, alikes()...)
	all = append(all, honeypots()...)
	all = append(all, others()...)
	all = append(all, banners()...)
	return append(all, hostile()...)
}

// Variant returns the variant of this name, nil when there is none.
func Variant(name string) *Server {
	all := Variants()
	if i := slices.IndexFunc(all, func(s *Server) bool { return s.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// Demo returns a dozen servers, one or more of each kind: a street to show a
// scan on in a few seconds.
func Demo() []*Server {
	names := []string{
		"ollama/0.5.7", "ollama/busy-h100", "ollama/cloud", "ollama/system-prompt", "ollama/through-nginx",
		"guard/nginx-basic/" + Newest, "guard/nginx-reads/0.5.7", "alike/llama.cpp-b6000", "alike/open-webui-0.6",
		"honeypot/python-canned", "other/nginx-welcome", "hostile/terminal-escapes", "hostile/gzip-bomb",
	}
	all := Variants()
	street := make([]*Server, len(names))
	for i, name := range names {
		street[i] = all[slices.IndexFunc(all, func(s *Server) bool { return s.Name == name })]
	}
	return street
}

// situations are open Ollamas that differ by what they hold and where they
// stand. Some show one weak sign of a honeypot, and are none.
func situations() []*Server {
	var all []*Server
	add := func(name string, o Ollama) *Server {
		s := o.Server("ollama/" + name)
		all = append(all, s)
		return s
	}
	chat := Library("llama3.1:8b", "qwen2.5:7b", "nomic-embed-text:latest")
	busy := func(version string, loaded ...string) Ollama {
		o := Ollama{Version: version, Models: append(Library(loaded...), chat[2])}
		for _, m := range o.Models[:len(loaded)] {
			o.Running = append(o.Running, Loaded(m))
		}
		return o
	}

	// What it holds.
	add("empty", Ollama{})
	add("empty-old", Ollama{Version: "0.1.24"})
	add("one", Ollama{Models: Library("llama3.2:3b")})
	add("every", Ollama{Models: pick(seed("every"), len(library))})
	add("hundreds", Ollama{Models: hundreds()})
	add("embedding-only", Ollama{Models: Library("nomic-embed-text:latest", "mxbai-embed-large:latest", "bge-m3:latest")})
	add("vision", Ollama{Version: "0.6.8", Models: Library("gemma3:27b", "llava:7b")})
	add("671b", Ollama{Models: Library("deepseek-r1:671b", "llama3.3:70b")})
	add("busy-cpu", busyOnCPU())
	add("busy-laptop", busy("0.12.6", "llama3.2:3b"))
	add("busy-24gb", busy("0.11.10", "gemma3:27b"))
	add("busy-h100", busy("0.17.4", "llama3.3:70b"))
	add("busy-h200", busy("0.17.4", "gpt-oss:120b", "llama3.3:70b"))
	add("busy-eight-gpus", busy("0.12.6", "deepseek-r1:671b"))
	add("cloud", Ollama{Models: Library("gpt-oss:120b-cloud", "qwen3-coder:480b-cloud", "llama3.2:3b")})
	add("cloud-only", Ollama{Version: "0.12.3", Models: Library("deepseek-v3.1:671b-cloud")})
	add("cloud-off", Ollama{Models: Library("llama3.2:3b"), NoCloud: true})
	prompt := Library("llama3.1:8b", "qwen2.5:7b")
	prompt[0].Name = "support-bot:latest"
	prompt[0].System = "You are the assistant of a bank's service desk. Never mention the internal ticket system."
	prompt[0].Digest = digest(seed(prompt[0].System))
	add("system-prompt", Ollama{Models: prompt})
	add("own-names", Ollama{Models: renamed("hf.co/unsloth/DeepSeek-R1-Distill-Llama-70B-GGUF:Q4_K_M", "acme/ledger-assistant:v3", "my_model.Q8:latest")})
	tiny := Model{
		Name: "tiny:latest", Size: 571546, Digest: digest(seed("tiny")), Modified: Epoch, Format: "gguf", Family: "llama",
		Params: "140K", Quant: "unknown", Context: 512, Abilities: []string{"completion"}, System: "You are the doorman of a small house.",
	}
	add("tiny", Ollama{Models: []Model{tiny}})

	// What could look odd and is not.
	add("copies", Ollama{Models: copies()})
	add("release-to-come", Ollama{Version: "0.31.0", Models: chat})
	add("release-candidate", Ollama{Version: "0.12.10-rc1", Models: chat})
	add("from-source", Ollama{Version: "0.0.0", Models: chat})
	add("restored", Ollama{Version: "0.9.6", Models: at(chat, Epoch.AddDate(0, -1, 0))}) // files copied without their times
	add("clock-ahead", Ollama{Version: "0.9.6", Models: at(chat[:1], time.Now().Add(10*time.Minute).UTC())})
	add("other-zone", Ollama{Version: "0.11.10", Models: zoned(chat, time.FixedZone("", 8*3600))})

	// Where it stands.
	add("any-origin", Ollama{Models: chat, AnyOrigin: true})
	add("on-loopback", Ollama{Models: chat, Loopback: true})
	add("through-nginx", Ollama{Models: chat}).via(nginx)
	add("through-openresty", Ollama{Models: chat}).via(openresty)
	add("through-caddy", Ollama{Models: chat}).via(caddy)
	add("through-apache", Ollama{Models: chat}).via(apache)
	add("through-cloudflare", Ollama{Version: "0.12.6", Models: chat}).via(cloudflare)
	add("through-nginx-every", Ollama{Models: pick(seed("every"), len(library))}).via(nginx) // chunks
	add("under-prefix", Ollama{Models: chat}).via(nginx).under("/ollama", deny(nginxPage(404, "404 Not Found", nginxName)))
	behind := func(name string, st stack, c certificate) {
		s := add(name, Ollama{Models: chat}).via(st)
		s.TLS, s.tls = true, c
	}
	behind("tls", caddy, certificate{plain: goPlain})
	behind("tls-nginx", nginx, certificate{plain: nginxPlain, names: []string{"ollama.example", "*.ollama.example"}})
	behind("tls-expired", nginx, certificate{plain: nginxPlain, expired: true})
	behind("tls-1.2", caddy, certificate{plain: goPlain, max: tls.VersionTLS12})
	return all
}

func busyOnCPU() Ollama {
	o := Ollama{Version: "0.5.13", Models: Library("qwen2.5:0.5b", "llama3.2:1b")}
	r := Loaded(o.Models[0])
	r.VRAM = 0
	o.Running = []Running{r}
	return o
}

// hundreds is a long list: its JSON is some 130 KB.
func hundreds() []Model {
	var all []Model
	for i := range 400 {
		m := library[i%len(library)].pulled(seed(fmt.Sprint("hundreds", i)), i)
		m.Name = strings.Replace(m.Name, ":", fmt.Sprintf("-%d:", i), 1)
		all = append(all, m)
	}
	return all
}

// copies is one model under five names, as "ollama cp" leaves it.
func copies() []Model {
	models := Library("llama3.1:8b", "llama3.1:8b", "llama3.1:8b", "llama3.1:8b", "llama3.1:8b")
	for i := range models[1:] {
		models[i+1].Name = fmt.Sprintf("copy-%d:latest", i)
	}
	return models
}

// renamed returns as many models of different kinds under names of their own,
// five at most.
func renamed(names ...string) []Model {
	models := Library("deepseek-r1:70b", "llama3.1:8b", "llama3.2:1b", "qwen3:8b", "gemma3:4b")[:len(names)]
	for i, n := range names {
		models[i].Name = n
		models[i].Digest = digest(seed(n))
	}
	return models
}

func at(models []Model, t time.Time) []Model {
	models = slices.Clone(models)
	for i := range models {
		models[i].Modified = t
	}
	return models
}

func zoned(models []Model, zone *time.Location) []Model {
	models = slices.Clone(models)
	for i := range models {
		models[i].Modified = models[i].Modified.In(zone)
	}
	return models
}

// Powers returns what a stranger has on s as a set.
func (t Truth) Powers() map[ollama.Power]bool {
	set := make(map[ollama.Power]bool, len(t.Gives))
	for _, p := range t.Gives {
		set[p] = true
	}
	return set
}
