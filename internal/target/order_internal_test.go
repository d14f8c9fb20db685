package target

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

func TestPermutationIsABijection(t *testing.T) {
	sizes := []uint64{1, 2, 3, 5, 6, 7, 10, 97, 100, 1000, 65535 * 3}
	for k := 2; k <= 16; k++ {
		sizes = append(sizes, 1<<k-1, 1<<k, 1<<k+1)
	}
	for _, n := range sizes {
		for seed := range uint64(3) {
			p := newPermutation(n, seed)
			seen := make([]bool, n)
			for i := range n {
				j := p.at(i)
				if j >= n || seen[j] {
					t.Fatalf("n %d seed %d: position %d goes to %d, out of range or a second time", n, seed, i, j)
				}
				seen[j] = true
			}
		}
	}
}

func TestPermutationOfLargeSets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, n := range []uint64{1<<32 - 1, 1 << 32, 1<<32 + 1, 3 << 32, 1e15, 1<<62 + 12345, maxPlaces} {
		p := newPermutation(n, 42)
		for k := range uint64(20_000) {
			i := rnd.Uint64N(n)
			switch k {
			case 0:
				i = 0
			case 1:
				i = n - 1
			}
			j := p.at(i)
			if j >= n || p.of(j) != i {
				t.Fatalf("n %d: %d goes to %d, which comes from %d", n, i, j, p.of(j))
			}
		}
	}
}

// chiSquare is the statistic of counts against equal shares, and a bound that
// chance passes once in about 10^6 (Wilson and Hilferty's approximation).
func chiSquare(counts []int, total int) (x, bound float64) {
	want := float64(total) / float64(len(counts))
	for _, c := range counts {
		x += (float64(c) - want) * (float64(c) - want) / want
	}
	k := float64(len(counts) - 1)
	return x, k * math.Pow(1-2/(9*k)+4.75*math.Sqrt(2/(9*k)), 3)
}

func TestPermutationIsUniform(t *testing.T) {
	// Over seeds, every index is equally often at every position.
	for _, n := range []uint64{2, 3, 5, 8, 13} {
		const seeds = 40_000
		counts := make([][]int, n)
		for i := range counts {
			counts[i] = make([]int, n)
		}
		for seed := range uint64(seeds) {
			p := newPermutation(n, seed)
			for i := range n {
				counts[i][p.at(i)]++
			}
		}
		for i := range counts {
			if x, bound := chiSquare(counts[i], seeds); x > bound {
				t.Errorf("n %d: position %d: χ² %.1f above %.1f: %v", n, i, x, bound, counts[i])
			}
		}
	}
	// Within one order, a run of positions is spread evenly, and so is the way
	// from one to the next.
	for _, n := range []uint64{1 << 24, 3<<24 + 7, 1 << 40} {
		p := newPermutation(n, 7)
		const total = 200_000
		places, steps := make([]int, 256), make([]int, 256)
		before := p.at(total)
		for i := range uint64(total) {
			j := p.at(i)
			places[j*256/n]++
			steps[(j+n-before)%n*256/n]++
			before = j
		}
		for what, counts := range map[string][]int{"places": places, "steps": steps} {
			if x, bound := chiSquare(counts, total); x > bound {
				t.Errorf("n %d: %s: χ² %.1f above %.1f", n, what, x, bound)
			}
		}
	}
}

// TestSampleIsUnbiased: every place and every pair of places is in the sample
// equally often.
func TestSampleIsUnbiased(t *testing.T) {
	const n, seeds = 12, 60_000
	take := Sample(0.25).of(n)
	var single [n]int
	pairs := make([]int, 0, n*n)
	pair := map[[2]uint64]int{}
	for seed := range uint64(seeds) {
		p := newPermutation(n, seed)
		for i := range take {
			single[p.at(i)]++
			for j := range i {
				a, b := p.at(i), p.at(j)
				pair[[2]uint64{min(a, b), max(a, b)}]++
			}
		}
	}
	for a := range uint64(n) {
		for b := range a {
			pairs = append(pairs, pair[[2]uint64{b, a}])
		}
	}
	if x, bound := chiSquare(single[:], seeds*int(take)); x > bound {
		t.Errorf("places: χ² %.1f above %.1f: %v", x, bound, single)
	}
	if x, bound := chiSquare(pairs, seeds*int(take*(take-1)/2)); x > bound {
		t.Errorf("pairs: χ² %.1f above %.1f: %v", x, bound, pairs)
	}
}

func TestSampleOf(t *testing.T) {
	for _, tc := range []struct {
		text    string
		n, want uint64
	}{
		{"1%", 100, 1},
		{"1%", 101, 2},
		{"1%", 1, 1},
		{"7%", 100, 7},
		{"0.7%", 1000, 7},
		{"0.07", 100, 7},
		{"100%", 7, 7},
		{"1", 7, 7},
		{"0.5", 0, 0},
		{"1e-9", 5, 1},
		{"50%", maxPlaces, 1 << 62},
		{"33.3%", 1000, 333},
	} {
		var s Sample
		if err := s.UnmarshalText([]byte(tc.text)); err != nil {
			t.Errorf("%s: %v", tc.text, err)
		}
		if got := s.of(tc.n); got != tc.want {
			t.Errorf("%s of %d: got %d, want %d", tc.text, tc.n, got, tc.want)
		}
	}
	for _, text := range []string{"", "0", "0%", "101%", "-1%", "NaN", "Inf", "x", "1%%", "2"} {
		if err := new(Sample).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for a sample", text)
		}
	}
	for _, text := range []string{"", "1", "0/3", "4/3", "1/0", "-1/2", "1/2/3", "1/99999999999"} {
		if err := new(Shard).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for a shard", text)
		}
	}
	var s Shard
	if err := s.UnmarshalText([]byte("2/5")); err != nil || s != (Shard{2, 5}) {
		t.Error(s, err)
	}
}

func BenchmarkPermutation(b *testing.B) {
	for _, n := range []uint64{1000, 3 << 24, 1 << 48} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := newPermutation(n, 1)
			var i, sum uint64
			for b.Loop() {
				sum += p.at(i % n)
				i++
			}
			_ = sum
		})
	}
}
