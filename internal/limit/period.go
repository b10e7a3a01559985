package limit

import (
	"fmt"
	"math"
	"time"
)

// A Period is a part of the calendar, in local time, after which a quota
// begins anew.
type Period string

// The periods of quotas. A week begins on Monday; Total does not end.
const (
	Hour  Period = "hour"
	Day   Period = "day"
	Week  Period = "week"
	Month Period = "month"
	Total Period = "total"
)

// ParsePeriod returns the period of that name.
func ParsePeriod(name string) (Period, error) {
	switch p := Period(name); p {
	case Hour, Day, Week, Month, Total:
		return p, nil
	}
	return "", fmt.Errorf("unknown period %q: want hour, day, week, month or total", name)
}

// phrase is how errors say it.
func (p Period) phrase() string {
	if p == Total {
		return "in total"
	}
	return "per " + string(p)
}

// bounds returns when the period that now is in began, and when it ends, in
// seconds since 1970.
func (p Period) bounds(now time.Time) (start, end int64) {
	year, month, day := now.Date()
	midnight := func(month time.Month, day int) int64 {
		return time.Date(year, month, day, 0, 0, 0, 0, now.Location()).Unix()
	}
	switch p {
	case Hour:
		// By subtraction: an hour that summer time repeats has two starts.
		start = now.Unix() - int64(60*now.Minute()+now.Second())
		return start, start + 3600
	case Day:
		return midnight(month, day), midnight(month, day+1)
	case Week:
		monday := day - (int(now.Weekday())+6)%7
		return midnight(month, monday), midnight(month, monday+7)
	case Month:
		return midnight(month, 1), midnight(month+1, 1)
	}
	return 0, math.MaxInt64
}
