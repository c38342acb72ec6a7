package keylist

import (
	"fmt"
	"testing"
	"time"
)

func TestLastUses(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n) }
	var l LastUses
	l.Note(nil)
	l.Note(map[string]UseRecord{"a": {At: day(2), Operation: "Sign"}, "b": {At: day(1)}})
	l.Note(map[string]UseRecord{"a": {At: day(1), Operation: "Verify"}, "b": {At: day(3), Operation: "Decrypt"}})
	if l.Keys["a"].Operation != "Sign" || l.Keys["b"].Operation != "Decrypt" {
		t.Errorf("an earlier read replaced a later one: %+v", l.Keys)
	}
	many := map[string]UseRecord{}
	for i := range maxLastUses - 1 {
		many[fmt.Sprint(i)] = UseRecord{At: day(4)}
	}
	l.Note(many)
	if _, kept := l.Keys["b"]; len(l.Keys) != maxLastUses || !kept {
		t.Errorf("%d keys; the later one is kept: %t", len(l.Keys), kept)
	}
	if _, kept := l.Keys["a"]; kept {
		t.Error("what was read first is still there")
	}
}
