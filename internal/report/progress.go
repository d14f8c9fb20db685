package report

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Progress is how far a wave has got.
type Progress struct {
	Places  uint64        // asked for; 0 when not known yet
	Visited uint64        // looked at to an end
	Open    uint64        // answer strangers
	Found   uint64        // answer at all
	Rate    float64       // places a second
	Left    time.Duration // 0 when not known
}

// Meter keeps one line of progress at the bottom of a terminal. The zero value
// and a nil Meter draw nothing, which is what a writer that is no terminal
// needs. It may be used from several goroutines.
type Meter struct {
	Terminal io.Writer // nil draws nothing
	Width    int       // columns; 0 means 80

	mu    sync.Mutex
	drawn time.Time // when the line was last drawn
	shown bool      // the line is on the screen
}

// redraw is the least time between two drawings.
const redraw = 100 * time.Millisecond

// eraseLine goes to the start of the line and clears it.
const eraseLine = "\r\x1b[K"

// Show draws p, unless the line was drawn less than a tenth of a second ago.
// An error of the terminal is of no interest: the report says everything again.
func (m *Meter) Show(p Progress) {
	if m == nil || m.Terminal == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if !m.drawn.IsZero() && now.Sub(m.drawn) < redraw {
		return
	}
	m.drawn, m.shown = now, true
	width := m.Width
	if width <= 0 {
		width = defaultWidth
	}
	// A character in the last column would make some terminals begin a new line.
	io.WriteString(m.Terminal, eraseLine+fit(p.line(width), width-1))
}

// Clear takes the line off the screen.
func (m *Meter) Clear() {
	if m == nil || m.Terminal == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}

func (m *Meter) clear() {
	if m.shown {
		io.WriteString(m.Terminal, eraseLine)
		m.shown = false
	}
}

// Over returns a writer for whole lines of text that go to the same terminal:
// the progress makes room for them and comes back below with the next Show.
func (m *Meter) Over(w io.Writer) io.Writer {
	if m == nil || m.Terminal == nil {
		return w
	}
	return over{m, w}
}

type over struct {
	m *Meter
	w io.Writer
}

func (o over) Write(p []byte) (int, error) {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	o.m.clear()
	return o.w.Write(p)
}

func (p Progress) line(width int) string {
	var parts []string
	switch {
	case p.Places > 0:
		done := min(float64(p.Visited)/float64(p.Places), 1)
		if width >= 72 {
			const bar = 12
			full := int(done * bar)
			parts = append(parts, strings.Repeat("━", full)+strings.Repeat("╌", bar-full))
		}
		parts = append(parts,
			fmt.Sprintf("%3d %%", int(done*100)),
			count(p.Visited)+" of "+count(p.Places))
	default:
		parts = append(parts, count(p.Visited)+" visited")
	}
	parts = append(parts, count(p.Open)+" open", count(p.Found)+" found")
	if p.Rate > 0 {
		parts = append(parts, count(uint64(min(p.Rate, 1e12)))+"/s")
	}
	if p.Left > 0 {
		parts = append(parts, clock(p.Left)+" left")
	}
	return strings.Join(parts, "  ")
}

// clock shows a duration as 0:07, 12:30 or 1:02:03.
func clock(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}
