package handlers

import (
	"testing"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
)

func TestDecideRestore(t *testing.T) {
	// A bad policy of mallory's where everything allows to put the good one back.
	bad := restoreInput{
		change: true, worst: finding.Critical, threshold: finding.Critical,
		known: true, before: true, administered: true, read: true, principal: "mallory", limit: 3,
	}
	by := func(principals ...string) (list []ledger.Restoration) {
		for _, p := range principals {
			list = append(list, ledger.Restoration{Principal: p})
		}
		return list
	}
	tests := []struct {
		name   string
		change func(*restoreInput)
		want   restoreReason
	}{
		{"bad", func(*restoreInput) {}, restoreGood},
		{"no change", func(in *restoreInput) { in.change = false }, restoreFirst},
		{"nothing new", func(in *restoreInput) { in.worst = "" }, restoreNothing},
		{"nothing severe", func(in *restoreInput) { in.worst = finding.High }, restoreNothing},
		{"a lower threshold", func(in *restoreInput) { in.worst, in.threshold = finding.High, finding.Medium }, restoreGood},
		{"not to be judged", func(in *restoreInput) { in.worst, in.unjudged = finding.High, true }, restoreGood},
		{"accepted", func(in *restoreInput) { in.accepted = true }, restoreAccepted},
		{"no good one", func(in *restoreInput) { in.known = false }, restoreUnknown},
		{"a bad one was left before", func(in *restoreInput) { in.before = false }, restoreDrifted},
		{"the good one locks out", func(in *restoreInput) { in.administered = false }, restoreLockout},
		{"the good one was never read by us", func(in *restoreInput) { in.read = false }, restoreUnread},
		{"the same actor again", func(in *restoreInput) { in.earlier = by("alice", "mallory") }, restoreAgain},
		{"an actor that is not known, again", func(in *restoreInput) { in.principal, in.earlier = "", by("alice") }, restoreAgain},
		{"an actor after one that is not known", func(in *restoreInput) { in.earlier = by("") }, restoreAgain},
		{"another actor", func(in *restoreInput) { in.earlier = by("alice", "bob") }, restoreGood},
		{"very many actors", func(in *restoreInput) { in.earlier = by("alice", "bob", "carol") }, restoreOften},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := bad
			tt.change(&in)
			got := decideRestore(in)
			if got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
			if said := leftText(got, in.threshold) != ""; said != (got != restoreGood && got != restoreAccepted) {
				t.Errorf("%q says %q", got, leftText(got, in.threshold))
			}
		})
	}
}
