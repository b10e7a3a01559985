//go:build linux

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// A sample is what one measurement of one server found.
type sample struct {
	Figures map[string]float64 `json:"figures"`
	Failed  int                `json:"failed"`            // sessions, of any number tried
	Error   string             `json:"error,omitempty"`   // of the first that failed
	Missing string             `json:"missing,omitempty"` // why the server cannot do this at all
}

// othersFigure is in every sample: how many processors others kept busy.
const othersFigure = "others"

// set stores a figure unless it is unknown (NaN) or has nothing to refer to (a division by zero).
func (s *sample) set(name string, value float64) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	if s.Figures == nil {
		s.Figures = make(map[string]float64)
	}
	s.Figures[name] = value
}

// fail counts a session that did not work.
func (s *sample) fail(err error) {
	if s.Failed++; s.Error == "" {
		s.Error = err.Error()
	}
}

// String is the line of progress for people who wait.
func (s *sample) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.Figures)) {
		parts = append(parts, fmt.Sprintf("%s %.4g", name, s.Figures[name]))
	}
	if s.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed: %s", s.Failed, s.Error))
	}
	if s.Missing != "" {
		parts = append(parts, s.Missing)
	}
	return strings.Join(parts, ", ")
}

// median returns the middle of the values, NaN if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// percentile returns the value that the fraction p of the sorted values does not exceed, NaN if there are none.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}
