package users

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTableForgetsTheLongestUnused(t *testing.T) {
	table := newTable[int, string](3, time.Hour)
	for i := range 3 {
		table.put(i, "v")
	}
	table.get(0)
	table.put(3, "v")
	table.put(3, "w")
	table.delete(4)
	for key, want := range []bool{true, false, true, true, false} {
		if _, ok := table.get(key); ok != want {
			t.Errorf("has %d: %v", key, ok)
		}
	}
	if v, _ := table.get(3); v != "w" {
		t.Errorf("the value set last is %q", v)
	}
	if len(table.rows) != 3 || table.order.Len() != 3 {
		t.Errorf("%d rows, %d in order", len(table.rows), table.order.Len())
	}
}

func TestTableForgetsTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable[int, string](10, time.Minute)
		table.put(1, "v")
		table.put(2, "v")
		elapse(40 * time.Second)
		table.get(2)
		elapse(40 * time.Second)
		if _, ok := table.get(1); ok {
			t.Error("1 is remembered")
		}
		if _, ok := table.get(2); !ok {
			t.Error("2 is forgotten, in spite of its use")
		}
		elapse(time.Minute)
		table.put(3, "v")
		if len(table.rows) != 1 {
			t.Errorf("%d rows, want what is fresh", len(table.rows))
		}
	})
}
