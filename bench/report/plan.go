package main

import "time"

// plan is the whole run. Peers are measured in at least five rounds, all of them
// in turn in each; a curve's points, of which many are long, in fewer.
var plan = []step{
	{
		Name: "scan", Bench: "scan", Dir: "./bench", Limit: 5 * time.Minute,
		Args:  "-hosts 20000 -rounds 5 -tools ^(gatehouse|net/http|masscan)",
		Quick: "-hosts 2000 -rounds 2 -tools ^(gatehouse|net/http|masscan)",
	},
	{
		// Those that take minutes for more.
		Name: "scan-slow", Bench: "scan", Dir: "./bench", Limit: 5 * time.Minute,
		Args:  "-hosts 2000 -rounds 5 -slow 20 -tools ^(gatehouse|curl|nmap)",
		Quick: "-hosts 500 -rounds 1 -slow 10 -tools ^(gatehouse|curl|nmap)",
	},
	{
		Name: "scan-curve", Bench: "scan", Dir: "./bench", Limit: 5 * time.Minute,
		Args:  "-hosts 1000,10000,100000,1000000 -rounds 1 -tools ^gatehouse$",
		Quick: "-hosts 1000,3000,10000 -rounds 1 -tools ^gatehouse$",
	},
	{
		Name: "scan-whole", Bench: "scan", Dir: "./bench", Limit: 4 * time.Minute,
		Args:  "-sweep -rounds 5",
		Quick: "-sweep -rounds 1",
	},
	{
		Name: "sweep", Bench: "sweep", Dir: "./bench/sweep", Limit: 8 * time.Minute,
		Args:  "-rounds 5 -sparse 14",
		Quick: "-rounds 1 -sparse 14",
	},
	{
		Name: "gate", Bench: "gate", Dir: "./bench/gate", Limit: 4 * time.Minute,
		Args:  "-rounds 5 -time 1s",
		Quick: "-rounds 1 -time 200ms",
	},
	{
		Name: "gate-streams", Bench: "gate", Dir: "./bench/gate", Limit: 3 * time.Minute,
		Args:  "-streams 1,10,100,1000,10000,20000 -rounds 2",
		Quick: "-streams 1,10,100 -rounds 1",
	},
	{
		Name: "gate-keys", Bench: "gate", Dir: "./bench/gate", Limit: 3 * time.Minute,
		Args:  "-keys 10,100,1000,10000,100000 -rounds 2",
		Quick: "-keys 10,100,1000 -rounds 1",
	},
	{
		Name: "store", Bench: "store", Dir: "./bench/store", Limit: 9 * time.Minute,
		Args:  "-hosts 5000,50000,500000,2500000",
		Quick: "-hosts 500,1500,5000",
	},
	{
		Name: "start", Bench: "start", Dir: "./bench/start", Limit: 4 * time.Minute,
		Args:  "-rounds 15",
		Quick: "-rounds 5",
	},
}

// references are what the benchmarks measure to know what is possible. They are
// no peers: nothing stands between the caller and Ollama, or nobody listens for
// answers.
var references = []string{"direct", "bare proxy", "bare sendmmsg", "bare sendmmsg, no qdisc", "bare TX_RING", "bare TX_RING, no qdisc"}

// parted is the section whose peers are not peers, but parts of a whole.
const parted = "size"

// sections are those of the page, in its order.
var sections = []struct{ Bench, Title, What string }{
	{"sweep", "Sweep", "Packets sent and answers found, beside the tools that only do that."},
	{"scan", "Scan", "From an address to a verdict: four requests a host, product, version, models and findings."},
	{"gate", "Gate", "One upstream, a key for each request. On Gatehouse everything is switched on: keys, policy, limits, ledger and metrics; the others check a bearer key and nothing more."},
	{"store", "Store", "Two waves of the same hosts are kept, an observation a host and wave, then asked about. The second differs in one host of fifty."},
	{"start", "Start", "From the start of the process to its end, or to the first answer. The other proxies answer a fixed text themselves here, the gate fetches its answer from an upstream and asks for a key."},
	{parted, "Size", "What the program is made of. `make build` leaves out what only debuggers read; stack traces stay whole."},
}
