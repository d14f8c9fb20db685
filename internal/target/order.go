package target

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"strings"
)

// Order says in which order a set is walked, and which part of it. The zero
// Order is all of it in the order of seed 0.
type Order struct {
	Seed   uint64 // the same seed and set give the same order
	Shard  Shard
	Sample Sample
	// From is the first position that is walked, to resume: positions count
	// over the whole set, the same for every shard and sample.
	From uint64
}

func (o Order) check() error {
	if o.Shard != (Shard{}) && (o.Shard.I < 1 || o.Shard.I > o.Shard.N) {
		return fmt.Errorf("shard %d/%d is none of 1/%[2]d to %[2]d/%[2]d", o.Shard.I, o.Shard.N)
	}
	if !(o.Sample >= 0 && o.Sample <= 1) {
		return fmt.Errorf("sample %v is not between 0 and 1", float64(o.Sample))
	}
	return nil
}

// Shard is part I of N, from 1; the zero Shard is everything. The shards of one
// order are disjoint, and complete together.
type Shard struct{ I, N uint64 }

// UnmarshalText reads "2/5".
func (s *Shard) UnmarshalText(text []byte) error {
	i, n, _ := strings.Cut(string(text), "/")
	var errs [2]error
	s.I, errs[0] = strconv.ParseUint(i, 10, 32)
	s.N, errs[1] = strconv.ParseUint(n, 10, 32)
	if errs != [2]error{} || s.I < 1 || s.I > s.N {
		return fmt.Errorf("%q is no shard such as 2/5", text)
	}
	return nil
}

// holds reports whether the shard has n, a position or a hash.
func (s Shard) holds(n uint64) bool { return s.N <= 1 || n%s.N == s.I-1 }

// Sample is the part of a set that is walked, above 0 and up to 1; 0 is all.
// Of n places it is the first ⌈Sample·n⌉ of the permuted order: a simple random
// sample, with the seed as its randomness.
type Sample float64

// UnmarshalText reads "1%" or "0.01".
func (s *Sample) UnmarshalText(text []byte) error {
	digits, percent := strings.CutSuffix(string(text), "%")
	if percent {
		digits += "e-2"
	}
	p, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(p > 0 && p <= 1) {
		return fmt.Errorf("%q is no part such as 1%% or 0.01", text)
	}
	*s = Sample(p)
	return nil
}

// of is ⌈s·n⌉. It takes s for the shortest decimal that reads as it, since 1 %
// of 100 are not the 2 that the nearest float64 above 0.01 would make of it.
func (s Sample) of(n uint64) uint64 {
	p, ok := new(big.Rat).SetString(strconv.FormatFloat(float64(s), 'g', -1, 64))
	if !ok || s <= 0 || s >= 1 {
		return n
	}
	count := new(big.Int).Mul(p.Num(), new(big.Int).SetUint64(n))
	count.Add(count, p.Denom())
	count.Sub(count, big.NewInt(1))
	return count.Div(count, p.Denom()).Uint64()
}

// below is the share s of all 64-bit numbers.
func (s Sample) below(hash uint64) bool {
	return s <= 0 || s >= 1 || float64(hash) < float64(s)*(1<<64)
}

// rounds of the permutation. Ten, where four would do for a random function
// that is strong, because the mixer is only fast.
const rounds = 10

// permutation is a keyed bijection over [0, n): the generalised Feistel cipher
// of Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002),
// their third method, over a·b ≥ n with a and b next to √n, walking the cycle until it is
// below n; since a·b - n < a, one step is nearly always enough. It mixes well
// enough to sample by; it hides nothing.
type permutation struct {
	n, a, b uint64
	keys    [rounds][2]uint64
}

// newPermutation makes the bijection over [0, n), n < 2^63.
func newPermutation(n, seed uint64) *permutation {
	p := &permutation{n: n, a: max(1, uint64(math.Sqrt(float64(n))))}
	for p.a*p.a < n {
		p.a++
	}
	p.b = max(1, (n+p.a-1)/p.a)
	for i := range p.keys {
		p.keys[i] = [2]uint64{splitMix(&seed), splitMix(&seed) | 1}
	}
	return p
}

// at is where position i < n lies.
func (p *permutation) at(i uint64) uint64 {
	for {
		l, r := i%p.a, i/p.a
		for j := 0; j < rounds; j += 2 {
			l = addMod(l, p.keys[j], r, p.a)
			r = addMod(r, p.keys[j+1], l, p.b)
		}
		if i = p.a*r + l; i < p.n {
			return i
		}
	}
}

// of is at backwards: the position where index i < n lies.
func (p *permutation) of(i uint64) uint64 {
	for {
		l, r := i%p.a, i/p.a
		for j := rounds - 2; j >= 0; j -= 2 {
			r = subMod(r, p.keys[j+1], l, p.b)
			l = subMod(l, p.keys[j], r, p.a)
		}
		if i = p.a*r + l; i < p.n {
			return i
		}
	}
}

// addMod is x + F(y) mod m, where F is the round function of key, and subMod
// takes that back.
func addMod(x uint64, key [2]uint64, y, m uint64) uint64 {
	if x += round(key, y, m); x >= m {
		x -= m
	}
	return x
}

func subMod(x uint64, key [2]uint64, y, m uint64) uint64 {
	if x += m - round(key, y, m); x >= m {
		x -= m
	}
	return x
}

// round is the round function: a number below m, without dividing.
func round(key [2]uint64, y, m uint64) uint64 {
	f, _ := bits.Mul64(mix(y^key[0], key[1]), m)
	return f
}

// mix multiplies to 128 bits and folds them, as wyhash does.
func mix(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}

// splitMix is Vigna's SplitMix64: the keys of one seed.
func splitMix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	return scramble(*state)
}

// scramble is its mixer, a bijection.
func scramble(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
