package report_test

import (
	"io"
	"testing"

	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

// BenchmarkFormats writes a host an operation, so that B/op is what a host costs
// in passing and ns/op tells the hosts a second.
func BenchmarkFormats(b *testing.B) {
	for name, write := range map[string]func(h report.Hosts) error{
		"table": func(h report.Hosts) error { return report.Table(io.Discard, wave.Summary{}, h, report.Options{}) },
		"json":  func(h report.Hosts) error { return report.JSON(io.Discard, wave.Summary{}, h) },
		"csv":   func(h report.Hosts) error { return report.CSV(io.Discard, h) },
		"sarif": func(h report.Hosts) error { return report.SARIF(io.Discard, "", wave.Summary{}, h) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			host := big()
			err := write(func(yield func(wave.Record, error) bool) {
				for range b.N {
					if !yield(host, nil) {
						return
					}
				}
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}
