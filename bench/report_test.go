//go:build linux

package main

import (
	"math"
	"strings"
	"testing"
)

func TestMedianAndPercentile(t *testing.T) {
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("median of three is %v", got)
	}
	if got := median([]float64{4, 1, 2, 9}); got != 3 {
		t.Errorf("median of four is %v", got)
	}
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for p, want := range map[float64]float64{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("percentile %v is %v, want %v", p, got, want)
		}
	}
	if !math.IsNaN(median(nil)) || !math.IsNaN(percentile(nil, 0.5)) {
		t.Error("nothing has a median or percentile")
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		decimals    int
		value, base float64
		want        string
	}{
		{0, 1234567, 0, "1,234,567"},
		{0, 123, math.NaN(), "123"},
		{1, -1234.56, 0, "-1,234.6"},
		{2, 3, 2, "3.00 (×1.50)"},
		{0, 5000, 100, "5,000 (×50)"},
		{0, math.NaN(), 1, "–"},
	}
	for _, tt := range tests {
		if got := (column{decimals: tt.decimals}).format(tt.value, tt.base); got != tt.want {
			t.Errorf("format(%v, %v) = %q, want %q", tt.value, tt.base, got, tt.want)
		}
	}
}

// The twin of a server has its name but not its results; failures and what is missing are always said.
func TestTable(t *testing.T) {
	a, b, twin := &server{name: "a"}, &server{name: "b"}, &server{name: "a", twin: true}
	of := func(s *server, smp *sample) result {
		return result{server: s, Workload: "w", Cell: "c", Server: s.name, Sample: smp}
	}
	results := []result{
		of(a, &sample{Figures: map[string]float64{"f": 10}}),
		of(b, &sample{Failed: 2, Error: "refused"}),
		of(a, &sample{Figures: map[string]float64{"f": 30}}),
		of(b, &sample{Figures: map[string]float64{"f": 5}, Failed: 1, Error: "later"}),
		of(noProxy(), &sample{Missing: "not here"}),
	}
	results[4].server = twin
	var out strings.Builder
	table{"T", []column{{"head", "c", "f", 0, false}}, "note"}.write(&out, []*server{a, b, twin}, results)
	const want = `## T

| server | head | failed |
|---|---|---|
| a | 20 | 0 |
| b | 5 (×0.25) | 3 |
| a | – | 0 |

note  
b: refused  
a: not here

`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestSampleDropsUnknown(t *testing.T) {
	var s sample
	s.set("nan", math.NaN())
	s.set("inf", math.Inf(1))
	s.set("f", 1)
	if len(s.Figures) != 1 {
		t.Errorf("got %v", s.Figures)
	}
}
