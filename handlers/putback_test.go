package handlers

import (
	"fmt"
	"testing"

	"github.com/cmkeeper/cmkeeper/alert"
)

func TestDecidePutBack(t *testing.T) {
	// A bad policy of mallory's where everything allows to put the good one back.
	bad := putBackInput{
		change: true, worst: alert.Critical, threshold: alert.Critical,
		known: true, before: true, administered: true, read: true, principal: "mallory", limit: 3,
	}
	by := func(principals ...string) (list []putBack) {
		for _, p := range principals {
			list = append(list, putBack{Principal: p})
		}
		return list
	}
	tests := []struct {
		name   string
		change func(*putBackInput)
		want   putBackReason
	}{
		{"bad", func(*putBackInput) {}, putBackGood},
		{"no change", func(in *putBackInput) { in.change = false }, putBackFirst},
		{"nothing new", func(in *putBackInput) { in.worst = "" }, putBackNothing},
		{"nothing severe", func(in *putBackInput) { in.worst = alert.High }, putBackNothing},
		{"a lower threshold", func(in *putBackInput) { in.worst, in.threshold = alert.High, alert.Medium }, putBackGood},
		{"not to be judged", func(in *putBackInput) { in.worst, in.unjudged = alert.High, true }, putBackGood},
		{"accepted", func(in *putBackInput) { in.accepted = true }, putBackAccepted},
		{"no good one", func(in *putBackInput) { in.known = false }, putBackUnknown},
		{"a bad one was left before", func(in *putBackInput) { in.before = false }, putBackDrifted},
		{"the good one locks out", func(in *putBackInput) { in.administered = false }, putBackLockout},
		{"the good one was never read by us", func(in *putBackInput) { in.read = false }, putBackUnread},
		{"the same actor again", func(in *putBackInput) { in.earlier = by("alice", "mallory") }, putBackAgain},
		{"an actor that is not known, again", func(in *putBackInput) { in.principal, in.earlier = "", by("alice") }, putBackAgain},
		{"an actor after one that is not known", func(in *putBackInput) { in.earlier = by("") }, putBackAgain},
		{"another actor", func(in *putBackInput) { in.earlier = by("alice", "bob") }, putBackGood},
		{"very many actors", func(in *putBackInput) { in.earlier = by("alice", "bob", "carol") }, putBackOften},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := bad
			tt.change(&in)
			got := decidePutBack(in)
			if got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
			if said := leftText(got, in.threshold) != ""; said != (got != putBackGood && got != putBackAccepted) {
				t.Errorf("%q says %q", got, leftText(got, in.threshold))
			}
		})
	}
}

// policyOf is a policy of one role.
func policyOf(role string) string {
	return fmt.Sprintf(`{"Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:role/%s"},"Action":"kms:*","Resource":"*"}]}`, role)
}

func live(role string) PolicyVersion {
	return PolicyVersion{Document: policyOf(role), ReadAs: "cmkeeper"}
}

func TestBaseline(t *testing.T) {
	var b Baseline
	good := func() int {
		v, _ := b.Good()
		return v.Number
	}
	b.seen(live("bad"), false)
	if len(b.Versions) != 0 {
		t.Fatalf("a bad policy was recorded: %+v", b)
	}
	b.seen(live("a"), true)
	b.seen(PolicyVersion{Document: policyOf("a"), ReadAs: "renamed"}, true)
	if v, _ := b.Good(); len(b.Versions) != 1 || v.ReadAs != "renamed" || v.SHA256 == "" {
		t.Errorf("the same policy, read as another role: %+v", b)
	}
	b.seen(live("b"), true)
	if good() != 2 {
		t.Errorf("the good version is %d, want 2", good())
	}

	// A bad one is accepted before it is live.
	accepted := b.add(PolicyVersion{Document: policyOf("c"), AcceptedBy: "alice"})
	if good() != 2 {
		t.Errorf("an accepted policy that was never live is put back")
	}
	if _, ok := b.acceptance(policyOf("c") + " "); ok {
		t.Error("the acceptance is of another document, too")
	}
	if v, ok := b.acceptance(policyOf("c")); !ok || v.Number != accepted.Number {
		t.Errorf("acceptance %+v", v)
	}
	b.seen(live("b"), true)
	if _, ok := b.acceptance(policyOf("c")); !ok {
		t.Error("the acceptance is gone because the former policy is still live")
	}
	b.seen(live("c"), false)
	if good() != accepted.Number || len(b.Versions) != 3 {
		t.Errorf("the good version is %d: %+v", good(), b)
	}
	// It counts until another one is the good one.
	b.add(PolicyVersion{Document: policyOf("d"), AcceptedBy: "alice"})
	b.seen(live("e"), true)
	if _, ok := b.acceptance(policyOf("d")); ok {
		t.Error("an acceptance holds although another policy has become the good one since")
	}
}

func TestBaselineIsBounded(t *testing.T) {
	var b Baseline
	b.seen(live("good"), true)
	for i := range 3 * maxVersions {
		b.add(PolicyVersion{Document: policyOf(fmt.Sprint("bad", i)), Taken: true})
	}
	if v, ok := b.Good(); len(b.Versions) != maxVersions || !ok || v.Number != 1 {
		t.Errorf("%d versions, the good one is %+v", len(b.Versions), v)
	}
	if last := b.Versions[maxVersions-1].Number; last != 3*maxVersions+1 {
		t.Errorf("the last number is %d", last)
	}
	if _, ok := b.Version(2); ok {
		t.Error("the oldest version is still there")
	}
}
