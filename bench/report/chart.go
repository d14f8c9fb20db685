package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"gatehouse/bench/figures"
)

// A picture is 700 × 330 pixels of CSS, as wide as a page of Markdown shows it.
const (
	width  = 525 * vg.Length(1) // points
	height = 247 * vg.Length(1)
)

// The colours of Okabe and Ito, which those who see fewer tell apart too, on a
// ground of the picture's own: a page may be light or dark. Ours comes first.
var colours = []color.Color{
	color.RGBA{0x00, 0x5f, 0xa8, 0xff},
	color.RGBA{0xd5, 0x5e, 0x00, 0xff},
	color.RGBA{0x00, 0x8a, 0x63, 0xff},
	color.RGBA{0xb0, 0x58, 0x8c, 0xff},
	color.RGBA{0x8a, 0x6d, 0x00, 0xff},
	color.RGBA{0x3f, 0x97, 0xc4, 0xff},
	color.RGBA{0x55, 0x55, 0x55, 0xff},
}

var marks = []draw.GlyphDrawer{
	draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.CrossGlyph{}, draw.PlusGlyph{}, draw.RingGlyph{}, draw.BoxGlyph{},
}

var (
	ground = color.RGBA{0xff, 0xff, 0xff, 0xff}
	ink    = color.RGBA{0x33, 0x33, 0x33, 0xff}
	faint  = color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
)

// spread is a curve's points with the lowest and the highest figure of each.
type spread struct {
	plotter.XYs
	plotter.YErrors
}

// render draws the series as SVG: the medians joined, the spread upright.
func render(s *series) ([]byte, error) {
	p := plot.New()
	p.BackgroundColor = ground
	p.Title.Text = s.Name
	p.Title.Padding = vg.Points(6)
	p.X.Label.Text, p.Y.Label.Text = s.UnitX, s.UnitY
	label(&p.Title.TextStyle, 11)
	p.Title.TextStyle.Font.Weight = 2 // bold
	legend := plot.NewLegend()
	legend.Top, legend.Left, legend.Padding = true, true, vg.Points(4)
	label(&legend.TextStyle, 9.5)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		label(&axis.Label.TextStyle, 9.5)
		label(&axis.Tick.Label, 9)
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = ink, ink
		axis.Tick.Length = vg.Points(4)
		axis.LineStyle.Width, axis.Tick.LineStyle.Width = vg.Points(0.6), vg.Points(0.6)
	}

	var ys []float64
	for _, x := range s.X {
		for _, r := range s.At[x] {
			sum := r.summary()
			ys = append(ys, sum.Low, sum.High)
		}
	}
	scale(&p.X, slices.Min(s.X), slices.Max(s.X), false)
	scale(&p.Y, slices.Min(ys), slices.Max(ys), true)

	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = nil, faint
	grid.Horizontal.Width = vg.Points(0.5)
	p.Add(grid)
	var layers [][]plot.Plotter
	for i, peer := range s.Peers {
		var at spread
		for _, x := range s.X {
			if sum := s.At[x][peer].summary(); sum.Rounds > 0 {
				at.XYs = append(at.XYs, plotter.XY{X: x, Y: sum.Median})
				at.YErrors = append(at.YErrors, struct{ Low, High float64 }{sum.Median - sum.Low, sum.High - sum.Median})
			}
		}
		if len(at.XYs) == 0 {
			continue
		}
		line, points, err := plotter.NewLinePoints(at.XYs)
		if err != nil {
			return nil, fmt.Errorf("draw %s of %s: %w", s.Name, peer, err)
		}
		bars, err := plotter.NewYErrorBars(at)
		if err != nil {
			return nil, fmt.Errorf("draw the spread of %s of %s: %w", s.Name, peer, err)
		}
		line.Color, points.Color, bars.Color = colours[i%len(colours)], colours[i%len(colours)], colours[i%len(colours)]
		points.Shape, points.Radius = marks[i%len(marks)], vg.Points(2.6)
		line.Width, bars.Width, bars.CapWidth = vg.Points(1.2), vg.Points(0.8), vg.Points(4)
		if peer == figures.Ours {
			line.Width = vg.Points(2.2)
		}
		layers = append(layers, []plot.Plotter{line, bars, points})
		legend.Add(peer, line, points)
	}
	for _, layer := range slices.Backward(layers) { // ours above the others
		p.Add(layer...)
	}
	if len(layers) == 1 {
		return picture(p, nil)
	}
	return picture(p, &legend)
}

// picture puts the plot on a canvas, and the legend beside it, where it covers
// no curve.
func picture(p *plot.Plot, legend *plot.Legend) ([]byte, error) {
	c := vgsvg.New(width, height)
	all := draw.New(c)
	all.SetColor(ground)
	all.Fill(all.Rectangle.Path())
	plain := draw.Crop(all, vg.Points(6), -vg.Points(14), vg.Points(6), -vg.Points(6))
	if legend != nil {
		r := legend.Rectangle(all)
		room := (r.Max.X-r.Min.X)*1.1 + vg.Points(12) // where the font is another, it is wider
		legend.Draw(draw.Crop(all, width-room, 0, 0, -vg.Points(28)))
		plain = draw.Crop(plain, 0, -room, 0, 0)
	}
	p.Draw(plain)
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("write the picture: %w", err)
	}
	// Where the font is not installed, one as wide.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;")), nil
}

func label(style *text.Style, size vg.Length) {
	style.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	style.Color = ink
}

// scale makes an axis logarithmic when its figures differ fiftyfold and more. A
// linear one of figures begins at nought, or a small difference looks like a
// great one.
func scale(axis *plot.Axis, low, high float64, round bool) {
	if low > 0 && high/low >= 50 {
		if round {
			low, high = nice(low, math.Floor), nice(high, math.Ceil)
		}
		axis.Min, axis.Max, axis.Scale, axis.Tick.Marker = low, high, plot.LogScale{}, plot.TickerFunc(decades)
		return
	}
	if round {
		low = min(low, 0)
	}
	if high <= low {
		high = low + 1
	}
	if round {
		high += (high - low) / 20
	}
	axis.Min, axis.Max = low, high
	axis.Tick.Marker = plot.TickerFunc(func(low, high float64) []plot.Tick {
		ticks := plot.DefaultTicks{}.Ticks(low, high)
		for i, t := range ticks {
			if !t.IsMinor() {
				ticks[i].Label = short(t.Value)
			}
		}
		return ticks
	})
}

// nice is the next 1, 2 or 5 times a power of ten, below or above.
func nice(v float64, to func(float64) float64) float64 {
	power := math.Pow10(int(math.Floor(math.Log10(v))))
	steps := []float64{1, 2, 5, 10}
	v /= power
	if to(0.5) == 0 { // down
		slices.Reverse(steps)
		return power * steps[slices.IndexFunc(steps, func(s float64) bool { return s <= v })]
	}
	return power * steps[slices.IndexFunc(steps, func(s float64) bool { return s >= v })]
}

// decades are ticks for a logarithmic axis: powers of ten, with 2 and 5 between
// them when there are few.
func decades(low, high float64) (ticks []plot.Tick) {
	few := math.Log10(high/low) < 2.5
	for power := math.Pow10(int(math.Floor(math.Log10(low)))); power <= high; power *= 10 {
		for n := 1.0; n < 10; n++ {
			t := plot.Tick{Value: n * power}
			if n == 1 || few && (n == 2 || n == 5) {
				t.Label = short(t.Value)
			}
			if t.Value >= low*(1-1e-9) && t.Value <= high*(1+1e-9) {
				ticks = append(ticks, t)
			}
		}
	}
	return ticks
}

// short is a figure for an axis: 0.05, 20, 5k, 1M.
func short(v float64) string {
	switch {
	case v >= 1e9:
		return fmt.Sprintf("%.4gG", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.4gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.4gk", v/1e3)
	}
	return fmt.Sprintf("%.4g", v)
}

var english = message.NewPrinter(language.English)

// figure is a figure for a table, with three digits that tell something: 0.0123,
// 4.56, 78.9, 5,999.
func figure(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.001:
		return fmt.Sprintf("%.2g", v)
	}
	return english.Sprintf("%.*f", max(0, min(4, 2-int(math.Floor(math.Log10(v))))), v)
}
