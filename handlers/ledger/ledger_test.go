package ledger

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/events"
)

// noon is when the events of these tables happened.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

// states makes a history of "State@offset" words.
func states(words ...string) []State {
	var all []State
	for _, w := range words {
		name, offset, _ := strings.Cut(w, "@")
		d, err := time.ParseDuration(offset)
		if err != nil {
			panic(err)
		}
		all = append(all, State{State: name, At: after(d)})
	}
	return all
}

// history shows a document's targets as "A B- C", with a minus for a deletion.
func history(d Alias) string {
	var words []string
	for _, h := range d.History {
		w := h.KeyARN
		if h.Deleted {
			w += "-"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func TestAliasHistory(t *testing.T) {
	at := func(key string, d time.Duration) Target {
		return Target{KeyARN: key, Since: after(d), Known: true}
	}
	older := func(key string, d time.Duration) Target { return Target{KeyARN: key, Since: after(d)} }
	gone := func(key string, d time.Duration) Target {
		return Target{KeyARN: key, Since: after(d), Deleted: true, Known: true}
	}
	tests := []struct {
		name    string
		learn   []Target
		history string
		from    string // of the pending move after the last one; "" for none
	}{
		{"first", []Target{at("A", 1)}, "A", ""},
		{"move", []Target{at("A", 1), at("B", 2)}, "A B", "[A]"},
		{"the same again", []Target{at("A", 1), at("A", 2)}, "A A", ""},
		{"the same again and again", []Target{at("A", 1), at("A", 3), at("A", 2), at("A", 4)}, "A A", ""},
		{"there and back, which is known first", []Target{at("A", 1), at("A", 3), at("B", 2)}, "A B A", "[B]"},
		{"two moves, none dealt with", []Target{at("A", 1), at("B", 2), at("C", 3)}, "A B C", "[A B]"},
		{"out of order", []Target{at("A", 1), at("C", 3), at("B", 2)}, "A B C", "[A B]"},
		{"there and back", []Target{at("A", 1), at("B", 2), at("A", 3)}, "A B A", "[B]"},
		{"delete and create", []Target{at("A", 1), gone("A", 2), at("B", 3)}, "A A- B", "[A]"},
		{"delete and create, reversed", []Target{at("A", 1), at("B", 3), gone("A", 2)}, "A A- B", "[A]"},
		{"deleted", []Target{at("A", 1), gone("", 2)}, "A -", ""},
		{"an earlier build's, which may be a claim", []Target{at("A", 1), older("B", 2), at("C", 3)}, "A B C", "[A]"},
		{"nothing but an earlier build's", []Target{older("A", 1), at("B", 2)}, "A B", "[]"},
		{"an earlier build's that turns out to be true", []Target{at("A", 1), older("B", 2), at("B", 2), at("C", 3)}, "A B C", "[A B]"},
		{"an earlier build's from the future", []Target{at("A", 1), older("", time.Hour), at("B", 2)}, "A B ", "[A]"},
		{"deleted before we knew it, then made", []Target{gone("A", 1), at("B", 2)}, "A- B", "[A]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d Alias
			for i, l := range tt.learn {
				d.Learn(l)
				d.RecordMove(Move{ID: fmt.Sprint(i), At: after(time.Hour)})
			}
			if got := history(d); got != tt.history {
				t.Errorf("history %q, want %q", got, tt.history)
			}
			got := ""
			if d.Pending != nil {
				got = fmt.Sprint(d.Pending.From)
			}
			if got != tt.from {
				t.Errorf("pending move from %q, want %q", got, tt.from)
			}
			again := d
			again.History = slices.Clone(d.History)
			for _, l := range tt.learn {
				again.Learn(l)
				again.RecordMove(Move{ID: "again"})
			}
			if diff := cmp.Diff(d, again); diff != "" {
				t.Errorf("learning the same again changes the document:\n%s", diff)
			}
		})
	}
}

func TestReconcile(t *testing.T) {
	live := func(key string, updated time.Duration) Target {
		return Target{KeyARN: key, Since: after(updated)}
	}
	var d Alias
	steps := []struct {
		name string
		live Target
		at   time.Duration
		want Reconciled
	}{
		{"first sight", live("A", 0), time.Minute, ReconciledFirstSeen},
		{"the same", live("A", 0), 2 * time.Minute, ReconciledUnchanged},
		{"an older read", live("B", -time.Hour), 3 * time.Minute, ReconciledStale},
		{"another key", live("B", 4*time.Minute), 5 * time.Minute, ReconciledCandidate},
		{"again, too soon", live("B", 4*time.Minute), 10 * time.Minute, ReconciledWaiting},
		{"yet another key", live("C", 11*time.Minute), 12 * time.Minute, ReconciledCandidate},
		{"again, in time", live("C", 11*time.Minute), 22 * time.Minute, ReconciledAccepted},
		{"and then", live("C", 11*time.Minute), 23 * time.Minute, ReconciledUnchanged},
	}
	for _, s := range steps {
		if got := d.Reconcile("arn", s.live.KeyARN, s.live.Since, after(s.at)); got != s.want {
			t.Fatalf("%s: %q, want %q", s.name, got, s.want)
		}
	}
	if got := history(d); got != "A C" {
		t.Errorf("history %q", got)
	}
}

func TestDecideBreaker(t *testing.T) {
	open := &Circuit{By: "a", At: after(-59 * time.Minute), Told: true}
	untold := &Circuit{By: "a", At: after(-time.Minute)}
	closed := &Circuit{By: "a", At: after(-time.Hour), Told: true}
	tests := []struct {
		name string
		in   breakerInput
		want Breaker
	}{
		{"nothing before", breakerInput{}, BreakerClosed},
		{"four repairs", breakerInput{recent: 4}, BreakerClosed},
		{"five repairs", breakerInput{recent: 5}, BreakerOpening},
		{"five repairs, this one begun before the last of them", breakerInput{recent: 5, begun: true}, BreakerClosed},
		{"open", breakerInput{last: open, by: "b"}, BreakerOpen},
		{"open, and begun before", breakerInput{last: open, by: "b", begun: true}, BreakerOpen},
		{"open, the event that opened it again", breakerInput{last: open, by: "a"}, BreakerOpening},
		{"open, a sweep", breakerInput{last: open, by: "b", sweep: true}, BreakerOpen},
		{"open, another event, perhaps not told", breakerInput{last: untold, by: "b"}, BreakerOpen},
		{"open, a sweep, perhaps not told", breakerInput{last: untold, by: "b", sweep: true}, BreakerOpening},
		{"closed", breakerInput{last: closed, by: "b"}, BreakerClosed},
		{"closed, the event that opened it again", breakerInput{last: closed, by: "a"}, BreakerClosed},
		{"closed, and too often since", breakerInput{last: closed, by: "b", recent: 5}, BreakerOpening},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.limit, tt.in.now = 5, noon
			if got := decideBreaker(tt.in); got != tt.want {
				t.Errorf("fight %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOpenCircuit(t *testing.T) {
	var d Key
	d.OpenCircuit("x", "a", noon)
	d.OpenCircuit("x", "b", after(time.Minute)) // it is open
	d.OpenCircuit("y", "c", noon)
	d.OpenCircuit("y", "d", after(time.Hour)) // it was closed
	want := []Circuit{{Reaction: "x", By: "a", At: noon}, {Reaction: "y", By: "d", At: after(time.Hour)}}
	if diff := cmp.Diff(want, d.Circuits); diff != "" {
		t.Error(diff)
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
	b.See(live("bad"), false)
	if len(b.Versions) != 0 {
		t.Fatalf("a bad policy was recorded: %+v", b)
	}
	b.See(live("a"), true)
	b.See(PolicyVersion{Document: policyOf("a"), ReadAs: "renamed"}, true)
	if v, _ := b.Good(); len(b.Versions) != 1 || v.ReadAs != "renamed" || v.SHA256 == "" {
		t.Errorf("the same policy, read as another role: %+v", b)
	}
	b.See(live("b"), true)
	if good() != 2 {
		t.Errorf("the good version is %d, want 2", good())
	}

	// A bad one is accepted before it is live.
	accepted := b.add(PolicyVersion{Document: policyOf("c"), AcceptedBy: "alice"})
	if good() != 2 {
		t.Errorf("an accepted policy that was never live is put back")
	}
	if _, ok := b.Acceptance(policyOf("c") + " "); ok {
		t.Error("the acceptance is of another document, too")
	}
	if v, ok := b.Acceptance(policyOf("c")); !ok || v.Number != accepted.Number {
		t.Errorf("acceptance %+v", v)
	}
	b.See(live("b"), true)
	if _, ok := b.Acceptance(policyOf("c")); !ok {
		t.Error("the acceptance is gone because the former policy is still live")
	}
	b.See(live("c"), false)
	if good() != accepted.Number || len(b.Versions) != 3 {
		t.Errorf("the good version is %d: %+v", good(), b)
	}
	// It counts until another one is the good one.
	b.add(PolicyVersion{Document: policyOf("d"), AcceptedBy: "alice"})
	b.See(live("e"), true)
	if _, ok := b.Acceptance(policyOf("d")); ok {
		t.Error("an acceptance holds although another policy has become the good one since")
	}
}

func TestBaselineIsBounded(t *testing.T) {
	var b Baseline
	b.See(live("good"), true)
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

func TestNoteTags(t *testing.T) {
	created := after(-720 * time.Hour)
	var d Key
	d.NoteTags(map[string]string{"env": "sandbox", "team": "a"}, created, noon)
	d.NoteTags(map[string]string{"env": "sandbox", "team": "b"}, created, after(time.Hour))
	d.NoteTags(map[string]string{"env": "sandbox", "team": "a"}, created, after(2*time.Hour))
	want := []Tag{
		{"env", "sandbox", created},            // the first sweep found it
		{"team", "a", noon.Add(2 * time.Hour)}, // it was another value in between
	}
	if diff := cmp.Diff(want, d.Tags); diff != "" {
		t.Error(diff)
	}

	var bare Key
	bare.NoteTags(nil, created, noon)
	bare.NoteTags(map[string]string{"env": "sandbox"}, created, after(time.Hour))
	if diff := cmp.Diff([]Tag{{"env", "sandbox", noon.Add(time.Hour)}}, bare.Tags); diff != "" {
		t.Errorf("a tag that came after the first sweep:\n%s", diff)
	}
}

func TestNoteCause(t *testing.T) {
	by := func(name, event string, at time.Duration) events.Event {
		return events.Event{Name: event, Kind: events.APICall, Time: after(at), Actor: events.Actor{Type: "IAMUser", Name: name, AccountID: "1"}}
	}
	tests := []struct {
		name   string
		states []State
		events []events.Event
		want   string
	}{
		{"who scheduled it", states("Enabled@-1h", "PendingDeletion@5s"), []events.Event{by("a", "ScheduleKeyDeletion", 0)}, "a"},
		{"another event", states("Enabled@-1h", "PendingDeletion@5s"), []events.Event{by("a", "DisableKey", 0)}, ""},
		{"an event from before the former state", states("Enabled@-1h", "PendingDeletion@5s"), []events.Event{by("a", "ScheduleKeyDeletion", -2*time.Hour)}, ""},
		{"the later of two", states("Enabled@-1h", "Disabled@5s"), []events.Event{by("a", "DisableKey", time.Second), by("b", "DisableKey", 0)}, "a"},
		{"never seen before", states("Disabled@5s"), []events.Event{by("a", "DisableKey", 0)}, "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := Key{States: tt.states}
			for _, e := range tt.events {
				d.NoteCause(e)
			}
			got := ""
			if p := d.StateCause(events.Event{Kind: events.Scheduled}); p != nil {
				got = p.Name
			}
			if want := tt.want; want != "" && got != want+" (IAM user in 1)" || want == "" && got != "" {
				t.Errorf("cause %q, want %q", got, want)
			}
		})
	}
}

// TestConfirmTwice: the answer to the write may be lost, and another worker's answer
// have taken the intent.
func TestConfirmTwice(t *testing.T) {
	var k Key
	r := Repair{Reaction: ReactionDeletion, By: "e", At: noon}
	k.Intend("EnableKey", r)
	for _, id := range []string{"r1", "r2"} {
		for range 2 {
			k.Confirm("EnableKey", r, []string{id}, true)
		}
	}
	var ids [][]string
	for _, c := range k.Calls {
		ids = append(ids, c.RequestIDs)
	}
	if diff := cmp.Diff([][]string{{"r1"}, {"r2"}}, ids); diff != "" {
		t.Errorf("calls that are known (-want +got):\n%s", diff)
	}
}

// TestShutOutByOlderRead: a read from before we were shut out does not say that we may
// read the key again.
func TestShutOutByOlderRead(t *testing.T) {
	var k Key
	k.NoteShutOut(after(time.Minute))
	k.See("arn", "", StateEnabled, noon, false)
	if !k.ShutOut.Equal(after(time.Minute)) {
		t.Error("an older read ended it")
	}
	k.See("arn", "", StateEnabled, after(2*time.Minute), false)
	if !k.ShutOut.IsZero() {
		t.Error("a later read did not end it")
	}
}

// TestRefuseAnotherOne: one worker's call took effect, of which an attempt was not
// answered, and then the other worker's call was refused.
func TestRefuseAnotherOne(t *testing.T) {
	var k Key
	r := Repair{Reaction: ReactionDeletion, By: "e", At: noon}
	k.Intend("CancelKeyDeletion", r)
	k.Confirm("CancelKeyDeletion", r, []string{"r2"}, false)
	k.Refuse("CancelKeyDeletion", r)
	if len(k.Calls) != 1 || !k.RepairOf(r.Reaction, r.By).Done {
		t.Errorf("calls %+v, repairs %+v", k.Calls, k.Repairs)
	}
}

func TestNoteToldTag(t *testing.T) {
	k := Key{Tags: []Tag{{"a", "1", noon}}}
	set, gone := ToldTag{Name: "a", Value: "2"}, ToldTag{Name: "a", Gone: true}
	k.NoteToldTag(set)
	if !k.TagTold(set) || k.TagTold(gone) {
		t.Errorf("told %+v", k.TagsTold)
	}
	k.NoteToldTag(gone)
	if k.TagTold(set) || !k.TagTold(gone) {
		t.Errorf("told %+v; only the last change of a tag counts", k.TagsTold)
	}
	for i := range 60 {
		k.NoteToldTag(ToldTag{Name: fmt.Sprint(i)})
	}
	if len(k.TagsTold) != 50 || k.Tags[0].Value != "1" {
		t.Errorf("%d told, tags %+v", len(k.TagsTold), k.Tags)
	}
	k.NoteTags(nil, noon, noon)
	if k.TagsTold != nil {
		t.Errorf("after a sweep %d told", len(k.TagsTold))
	}
}

// An earlier build believed a message from 2099, and an alias's real moves were never
// noticed after that. And what it kept counts once it is seen live.
func TestReconcileHeals(t *testing.T) {
	d := Alias{History: []Target{{KeyARN: "A", Since: after(0)}, {KeyARN: "X", Since: after(99 * 365 * 24 * time.Hour), Deleted: true}}}
	if got := d.Reconcile("arn", "A", after(0), after(time.Hour)); got != ReconciledUnchanged {
		t.Errorf("live as it was: %q", got)
	}
	d.Learn(Target{KeyARN: "B", Since: after(2 * time.Hour), Known: true})
	d.RecordMove(Move{ID: "m"})
	if d.Pending == nil || len(d.Pending.From) != 1 || d.Pending.From[0] != "A" || d.Pending.To != "B" {
		t.Errorf("pending %+v", d.Pending)
	}
}

func TestResting(t *testing.T) {
	var a Alias
	for i := range 3 {
		if wait := a.Resting(after(time.Duration(i) * time.Second)); wait != 0 {
			t.Errorf("start %d waits %s", i, wait)
		}
		a.Pending = &Move{ID: "m"}
		a.Finish(*a.Pending, after(time.Duration(i)*time.Second))
	}
	for d, want := range map[time.Duration]time.Duration{10 * time.Second: startWindow - 10*time.Second, startWindow - time.Second: time.Second, startWindow: 0, time.Hour: 0} {
		if got := a.Resting(after(d)); got != want {
			t.Errorf("after %s it waits %s, want %s", d, got, want)
		}
	}
	a.Pending = &Move{ID: "refused"}
	a.Finish(*a.Pending, time.Time{})
	if len(a.Starts) != 3 {
		t.Errorf("a move that was not started counts: %v", a.Starts)
	}
}
