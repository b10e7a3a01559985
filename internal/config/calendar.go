package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Days is a set of weekdays, a bit for each.
type Days uint8

var (
	errDays = errors.New("want weekdays such as mon, or mon-fri")
	dayName = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts
)

// UnmarshalText reads one weekday, or a range, which may go over the end of the week.
func (d *Days) UnmarshalText(text []byte) error {
	from, to, isRange := strings.Cut(strings.ToLower(string(text)), "-")
	if !isRange {
		to = from
	}
	first, last := slices.Index(dayName, from), slices.Index(dayName, to)
	if first < 0 || last < 0 {
		return errDays
	}
	*d = 1 << first
	for i := first; i != last; {
		i = (i + 1) % 7
		*d |= 1 << i
	}
	return nil
}

// Weekdays returns the days, Sunday first.
func (d Days) Weekdays() (all []time.Weekday) {
	for i := time.Sunday; i <= time.Saturday; i++ {
		if d&(1<<i) != 0 {
			all = append(all, i)
		}
	}
	return all
}

// String writes d as it is read.
func (d Days) String() string {
	const week = 1<<7 - 1
	if d == week {
		return "sun-sat"
	}
	first, last := 0, 0
	for i := range 7 {
		before, after := (i+6)%7, (i+1)%7
		if d&(1<<i) != 0 && d&(1<<before) == 0 {
			first = i
		}
		if d&(1<<i) != 0 && d&(1<<after) == 0 {
			last = i
		}
	}
	if first == last {
		return dayName[first]
	}
	return dayName[first] + "-" + dayName[last]
}

func (Days) shape() shape {
	name := "([sS]un|[mM]on|[tT]ue|[wW]ed|[tT]hu|[fF]ri|[sS]at)"
	return shape{one: "a weekday", many: "weekdays", pattern: "^" + name + "(-" + name + ")?$"}
}

// Span is a part of the day in minutes after midnight, without To itself. One
// that ends before it begins goes over midnight.
type Span struct{ From, To int }

var errSpan = errors.New("want times of day such as 08:00-18:00")

// UnmarshalText reads spans such as 08:00-18:00; 24:00 is the end of the day.
func (s *Span) UnmarshalText(text []byte) error {
	from, to, _ := strings.Cut(string(text), "-")
	first, ok1 := minutes(from)
	last, ok2 := minutes(to)
	switch {
	case !ok1 || !ok2 || first == 24*60:
		return errSpan
	case first == last:
		return errors.New("want times of day that differ; the whole day is 00:00-24:00")
	}
	*s = Span{From: first, To: last}
	return nil
}

// minutes reads hh:mm.
func minutes(s string) (n int, ok bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	hour, err1 := strconv.ParseUint(s[:2], 10, 8)
	minute, err2 := strconv.ParseUint(s[3:], 10, 8)
	n = int(hour*60 + minute)
	return n, err1 == nil && err2 == nil && minute < 60 && n <= 24*60
}

// String writes s as it is read.
func (s Span) String() string {
	return fmt.Sprintf("%02d:%02d-%02d:%02d", s.From/60, s.From%60, s.To/60, s.To%60)
}

func (Span) shape() shape {
	return shape{one: "a time of day", many: "times of day", pattern: `^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$`}
}

// Moment is a point in time, to the minute. The zero Moment means now.
type Moment time.Time

const momentLayout = "2006-01-02 15:04"

// UnmarshalText reads moments such as 2026-11-23 09:30, in local time.
func (m *Moment) UnmarshalText(text []byte) error {
	t, err := time.ParseInLocation(momentLayout, string(text), time.Local)
	if err != nil {
		return errors.New("want a time such as 2026-11-23 09:30")
	}
	*m = Moment(t)
	return nil
}

// Time returns m as a time.Time, which is zero if m is.
func (m Moment) Time() time.Time { return time.Time(m) }

// String writes m as it is read.
func (m Moment) String() string { return m.Time().Format(momentLayout) }

func (Moment) shape() shape {
	return shape{one: "a time", many: "times", pattern: `^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}$`}
}
