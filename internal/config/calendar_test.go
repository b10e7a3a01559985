package config

import (
	"slices"
	"testing"
	"time"
)

func TestDays(t *testing.T) {
	const all = "sun mon tue wed thu fri sat"
	tests := []struct {
		text  string
		want  []time.Weekday
		shown string
	}{
		{"mon", []time.Weekday{1}, "mon"},
		{"sun", []time.Weekday{0}, "sun"},
		{"Mon-Fri", []time.Weekday{1, 2, 3, 4, 5}, "mon-fri"},
		{"sat-sun", []time.Weekday{0, 6}, "sat-sun"},
		{"fri-mon", []time.Weekday{0, 1, 5, 6}, "fri-mon"},
		{"mon-sun", []time.Weekday{0, 1, 2, 3, 4, 5, 6}, "sun-sat"},
		{"wed-tue", []time.Weekday{0, 1, 2, 3, 4, 5, 6}, "sun-sat"},
		{"thu-thu", []time.Weekday{4}, "thu"},
	}
	for _, tt := range tests {
		got, err := read[Days](tt.text)
		if err != nil || !slices.Equal(got.Weekdays(), tt.want) || got.String() != tt.shown {
			t.Errorf("%q = %v (%v), %v", tt.text, got, got.Weekdays(), err)
		}
		if again, err := read[Days](got.String()); again != got || err != nil {
			t.Errorf("%q does not come back: %v, %v", tt.text, again, err)
		}
	}
	refuse[Days](t, "", "monday", "mo", "mon-", "-fri", "mon,tue", "mon-fri-sat", "1-5", all)
}

func TestSpan(t *testing.T) {
	for _, tt := range []scalarTest[Span]{
		{"08:00-18:00", Span{480, 1080}, "08:00-18:00"},
		{"22:00-06:00", Span{1320, 360}, "22:00-06:00"},
		{"00:00-24:00", Span{0, 1440}, "00:00-24:00"},
		{"23:59-00:00", Span{1439, 0}, "23:59-00:00"},
	} {
		tt.run(t)
	}
	refuse[Span](t, "", "08:00", "8:00-18:00", "08:00-18:60", "08:00-24:01", "24:00-08:00", "08:00-08:00", "00:00-00:00",
		"08.00-18.00", "08:00 - 18:00", "08:00-18:00-19:00", "-1:00-02:00", "25:00-26:00", "+1:00-02:00")
}

func TestMoment(t *testing.T) {
	got, err := read[Moment]("2026-11-23 09:30")
	want := time.Date(2026, 11, 23, 9, 30, 0, 0, time.Local)
	if err != nil || !got.Time().Equal(want) || got.String() != "2026-11-23 09:30" {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if !new(Moment).Time().IsZero() {
		t.Error("the zero Moment is a time")
	}
	refuse[Moment](t, "", "2026-11-23", "09:30", "2026-11-23T09:30", "2026-13-23 09:30", "2026-02-30 09:30", "2026-11-23 9:30 pm")
}
