package ledger

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/events"
)

// forSeeds tests a property with many random inputs. Each run of the tests draws
// others; CMKEEPER_SEED plays one again that a failure has named.
func forSeeds(t *testing.T, n int, property func(*testing.T, *rand.Rand)) {
	t.Helper()
	seeds := make([]uint64, n)
	for i := range seeds {
		seeds[i] = rand.Uint64()
	}
	if text := os.Getenv("CMKEEPER_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		if property(t, rand.New(rand.NewPCG(seed, 0))); t.Failed() {
			t.Fatalf("play it again with CMKEEPER_SEED=%d", seed)
		}
	}
}

// stored is a document as JSON.
func stored(t *testing.T, doc any) string {
	t.Helper()
	body, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// copyOf is a document as it is read back.
func copyOf[T any](t *testing.T, doc *T) *T {
	t.Helper()
	read := new(T)
	if err := json.Unmarshal([]byte(stored(t, doc)), read); err != nil {
		t.Fatal(err)
	}
	return read
}

// step is a transition with its arguments.
type step[T any] struct {
	name string
	do   func(*T)
}

// play applies a step to a document and returns the result. It fails the test where
// the result depends on anything but the document, where a second time changes it, or
// where it is read back as another one.
func (s step[T]) play(t *testing.T, doc *T) *T {
	t.Helper()
	once, other := copyOf(t, doc), copyOf(t, doc)
	s.do(once)
	s.do(other)
	if diff := cmp.Diff(stored(t, once), stored(t, other)); diff != "" {
		t.Errorf("%s makes different documents of the same one:\n%s", s.name, diff)
	}
	if diff := cmp.Diff(stored(t, once), stored(t, copyOf(t, once))); diff != "" {
		t.Errorf("after %s another document is read back:\n%s", s.name, diff)
	}
	if s.do(other); stored(t, once) != stored(t, other) {
		t.Errorf("%s is not safe to apply twice (-once +twice):\n%s", s.name, cmp.Diff(once, other))
	}
	return once
}

func oneOf[E any](r *rand.Rand, all ...E) E { return all[r.IntN(len(all))] }

// someTime is within three hours after noon, and seldom the same twice.
func someTime(r *rand.Rand) time.Time {
	return noon.Add(time.Duration(r.IntN(3*3600_000)) * time.Millisecond)
}

func someEvent(r *rand.Rand) events.Event {
	e := events.Event{
		ID: fmt.Sprint("e", r.IntN(30)), Kind: events.APICall, Time: someTime(r),
		Name: oneOf(r, "DisableKeyRotation", "EnableKeyRotation", "ScheduleKeyDeletion", "DisableKey", "PutKeyPolicy"),
	}
	if r.IntN(4) > 0 {
		e.Actor = events.Actor{Type: "IAMUser", Name: oneOf(r, "alice", "bob"), AccountID: "111122223333"}
	}
	return e
}

var (
	allReactions = []string{ReactionRotation, ReactionDeletion, ReactionPolicy, ReactionContain}
	allStates    = []string{StateEnabled, StateDisabled, StatePendingDeletion, StatePendingImport}
)

// keyStep is any transition of a key's document, with any arguments.
func keyStep(r *rand.Rand, k *Key) step[Key] {
	e, at, on, n := someEvent(r), someTime(r), r.IntN(2) == 0, r.IntN(5)
	state, reaction, operation := oneOf(r, allStates...), oneOf(r, allReactions...), oneOf(r, "EnableKey", "DisableKey", opPutPolicy)
	rep := Repair{Reaction: reaction, By: e.ID, Alert: e.ID, At: at, Against: PartyOf(e)}
	res := Restoration{By: e.ID, Alert: e.ID, Event: e.Name, Time: e.Time, Actor: ActorOf(e), At: at, Taken: Hash(policyOf("bad")), Good: n, GoodAt: noon}
	var ids []string
	for range r.IntN(3) {
		ids = append(ids, fmt.Sprint("r", r.IntN(1000)))
	}
	exempt, exposed := oneOf(r, "", "an exemption"), []string{e.Name, state, state}[:r.IntN(4)]
	text, told, circuit := policyOf(fmt.Sprint(n)), State{}, Circuit{}
	if len(k.States) > 0 {
		told = oneOf(r, k.States...)
	}
	if len(k.Circuits) > 0 {
		circuit = oneOf(r, k.Circuits...)
	}
	return oneOf(r,
		step[Key]{"See", func(k *Key) { k.See("arn", text, state, at, on) }},
		step[Key]{"MarkState", func(k *Key) { k.MarkState(told, e.ID, exempt) }},
		step[Key]{"NoteTags", func(k *Key) { k.NoteTags(map[string]string{"a": e.ID, "b": state}, noon, at) }},
		step[Key]{"NoteShutOut", func(k *Key) { k.NoteShutOut(at) }},
		step[Key]{"NoteCause", func(k *Key) { k.NoteCause(e) }},
		step[Key]{"NotePolicy", func(k *Key) { k.NotePolicy(text, at) }},
		step[Key]{"Rotation.See", func(k *Key) { k.Rotation.See(on, 90*n, at, e.ID) }},
		step[Key]{"NoteOff", func(k *Key) { k.Rotation.NoteOff(e, on) }},
		step[Key]{"NoteRotated", func(k *Key) { k.Rotation.NoteRotated(e, on) }},
		step[Key]{"contain", func(k *Key) { k.Contained = &Containment{By: e.ID, At: at} }},
		step[Key]{"WithdrawContainment", func(k *Key) { k.WithdrawContainment(e.ID) }},
		step[Key]{"restore", func(k *Key) { k.Restore = &Restore{By: e.ID, At: at} }},
		step[Key]{"NoteExposures", func(k *Key) { k.NoteExposures(exposed, at) }},
		step[Key]{"Intend", func(k *Key) { k.Intend(operation, rep) }},
		step[Key]{"Confirm", func(k *Key) { k.Confirm(operation, rep, ids, on && len(ids) > 0) }},
		step[Key]{"Refuse", func(k *Key) { k.Refuse(operation, rep) }},
		step[Key]{"NoteUntold", func(k *Key) { k.NoteUntold(Untold{Reaction: reaction, By: e.ID, At: at, Alert: text}) }},
		step[Key]{"MarkTold", func(k *Key) { k.MarkTold(reaction, e.ID) }},
		step[Key]{"OpenCircuit", func(k *Key) { k.OpenCircuit(reaction, e.ID, at) }},
		step[Key]{"MarkCircuit", func(k *Key) { k.MarkCircuit(circuit) }},
		step[Key]{"BeginRestoration", func(k *Key) { k.BeginRestoration(res) }},
		step[Key]{"DropRestoration", func(k *Key) { k.DropRestoration(res) }},
		step[Key]{"MarkRestoration", func(k *Key) { k.MarkRestoration(e.ID) }},
	)
}

func TestKeyTransitions(t *testing.T) {
	forSeeds(t, 3, func(t *testing.T, r *rand.Rand) {
		k := new(Key)
		for range 200 {
			if k = keyStep(r, k).play(t, k); t.Failed() {
				return
			}
		}
	})
}

func atMost(t *testing.T, what string, n, most int) {
	t.Helper()
	if n > most {
		t.Errorf("%d %s are kept, more than %d", n, what, most)
	}
}

// TestKeyIsBounded makes everything happen more often than is kept of it.
func TestKeyIsBounded(t *testing.T) {
	k := new(Key)
	for i := range 3 * maxRepairs {
		at, by := after(time.Duration(i)*time.Minute), fmt.Sprint("e", i)
		rep := Repair{Reaction: allReactions[i%len(allReactions)], By: by, At: at}
		k.See("arn", "", allStates[i%len(allStates)], at, false)
		k.Intend("EnableKey", rep)
		k.Confirm("EnableKey", rep, []string{by}, true)
		k.NoteUntold(Untold{Reaction: rep.Reaction, By: by, At: at})
		k.BeginRestoration(Restoration{By: "p" + by, At: at})
		k.OpenCircuit(rep.Reaction, by, at)
		k.Rotation.NoteRotated(events.Event{ID: by, Time: at}, true)
		for what, kept := range map[string][2]int{
			"states": {len(k.States), maxStates}, "calls": {len(k.Calls), maxCalls}, "repairs": {len(k.Repairs), maxRepairs}, "untold repairs": {len(k.Untold), maxRepairs},
			"restorations": {len(k.Restorations), maxRestorations}, "circuits": {len(k.Circuits), len(allReactions)},
			"rotations on demand": {len(k.Rotation.OnDemand), OnDemandLimit},
		} {
			if kept[0] > kept[1] || i == 3*maxRepairs-1 && kept[0] != kept[1] {
				t.Errorf("after %d times %d %s are kept, at most %d should be", i, kept[0], what, kept[1])
			}
		}
	}
	if s := k.LastState(); s.State != allStates[(3*maxRepairs-1)%len(allStates)] {
		t.Errorf("the last state is %s", s.State)
	}
}

// TestOlderReads holds what becomes of a read that is handled late. One that is older
// than the fact that is stored changes nothing; any other is the fact from then on.
func TestOlderReads(t *testing.T) {
	type fact struct {
		value string
		at    time.Time
	}
	of := map[string]func() (see func(value string, at time.Time), now func() fact){
		"the state": func() (func(string, time.Time), func() fact) {
			k := new(Key)
			return func(v string, at time.Time) { k.See("arn", "", v, at, false) },
				func() fact { return fact{k.LastState().State, k.LastState().At} }
		},
		"the policy": func() (func(string, time.Time), func() fact) {
			k := new(Key)
			return k.NotePolicy, func() fact { return fact{k.Policy.Document, k.Policy.At} }
		},
		"rotation": func() (func(string, time.Time), func() fact) {
			k := new(Rotation)
			return func(v string, at time.Time) { k.See(v == "a" || v == "c", 0, at, "x") },
				func() fact { return fact{strconv.FormatBool(k.On), k.At} }
		},
		"exposures": func() (func(string, time.Time), func() fact) {
			k := new(Key)
			return func(v string, at time.Time) { k.NoteExposures([]string{v}, at) },
				func() fact { return fact{k.Exposures[0].Name, k.ExposuresAt} }
		},
		"a bucket": func() (func(string, time.Time), func() fact) {
			b := new(Bucket)
			return func(v string, at time.Time) { b.See("b", v, "", nil, nil, at) }, func() fact { return fact{b.Key, b.At} }
		},
	}
	shown := func(what, value string) string {
		if what == "rotation" {
			return strconv.FormatBool(value == "a" || value == "c")
		}
		return value
	}
	for what, start := range of {
		t.Run(what, func(t *testing.T) {
			forSeeds(t, 50, func(t *testing.T, r *rand.Rand) {
				reads := make([]fact, 12)
				for i := range reads {
					reads[i] = fact{oneOf(r, "a", "b", "c", "d"), someTime(r)}
				}
				see, now := start()
				for i, read := range reads {
					var before fact
					if i > 0 {
						before = now()
					}
					see(read.value, read.at)
					after := now()
					switch {
					case read.at.Before(before.at):
						if after != before {
							t.Errorf("%v became %v by the older read %v", before, after, read)
						}
					case after.value != shown(what, read.value) || after.at.Before(before.at) || after.at.After(read.at):
						t.Errorf("%v became %v by the read %v", before, after, read)
					}
				}
				// In the order in which they were made, the last read is the fact.
				slices.SortFunc(reads, func(a, b fact) int { return a.at.Compare(b.at) })
				see, now = start()
				for _, read := range reads {
					see(read.value, read.at)
				}
				if got, want := now().value, shown(what, reads[len(reads)-1].value); got != want {
					t.Errorf("it is %q, and was last read as %q", got, want)
				}
			})
		})
	}
}

// TestExposuresInAnyOrder: which read was the last one is stored with them.
func TestExposuresInAnyOrder(t *testing.T) {
	forSeeds(t, 50, func(t *testing.T, r *rand.Rand) {
		var k Key
		var newest time.Time
		want := ""
		for range 10 {
			name, at := oneOf(r, "a", "b", "c"), someTime(r)
			if !at.Before(newest) {
				newest, want = at, name
			}
			k.NoteExposures([]string{name}, at)
		}
		if len(k.Exposures) != 1 || k.Exposures[0].Name != want || !k.ExposuresAt.Equal(newest) {
			t.Errorf("exposures are %+v at %s, want %s at %s", k.Exposures, k.ExposuresAt, want, newest)
		}
	})
}

// TestCircuitBreaker makes random repairs and compares the breaker with a count of
// them: it opens at the limit, never before, and closes after CircuitTime.
func TestCircuitBreaker(t *testing.T) {
	type model struct {
		made   []time.Time // repairs
		opened time.Time
	}
	opened := 0
	forSeeds(t, 20, func(t *testing.T, r *rand.Rand) {
		k, limit, now := new(Key), 1+r.IntN(MaxFlapLimit), noon
		models := map[string]*model{}
		for i := range 500 {
			now = now.Add(time.Duration(r.IntN(60)) * time.Second)
			if r.IntN(40) == 0 {
				now = now.Add(time.Duration(r.IntN(70)) * time.Minute)
			}
			reaction := oneOf(r, allReactions...)
			m := models[reaction]
			if m == nil {
				m = new(model)
				models[reaction] = m
			}
			recent := 0
			for _, at := range m.made {
				if now.Sub(at) <= time.Hour {
					recent++
				}
			}
			want := BreakerClosed
			switch {
			case !m.opened.IsZero() && now.Sub(m.opened) < time.Hour:
				want = BreakerOpen
			case recent >= limit:
				want = BreakerOpening
			}
			e := events.Event{ID: fmt.Sprint("e", i), Kind: events.APICall, Time: now}
			got := k.Breaker(reaction, e, limit, now)
			if got != want {
				t.Errorf("with %d of %d repairs in the hour the breaker is %q, want %q", recent, limit, got, want)
				return
			}
			rep := Repair{Reaction: reaction, By: e.ID, At: now}
			switch got {
			case BreakerOpening:
				k.OpenCircuit(reaction, e.ID, now)
				m.opened = now
				opened++
				if again := k.Breaker(reaction, e, limit, now); again != BreakerOpening {
					t.Errorf("for the event that opened it, it is %q then", again) // its alert may not be published
				}
			case BreakerClosed:
				k.Intend("EnableKey", rep)
				if again := k.Breaker(reaction, e, limit, now); again != BreakerClosed {
					t.Errorf("for a repair that was begun, it is %q then", again)
				}
				switch r.IntN(3) {
				case 0:
					k.Refuse("EnableKey", rep) // it does not count
				case 1:
					k.Confirm("EnableKey", rep, []string{e.ID}, true)
					fallthrough
				default:
					m.made = append(m.made, now)
				}
			case BreakerOpen:
			}
		}
	})
	if opened == 0 {
		t.Error("no circuit was opened")
	}
}

func TestBaselineTransitions(t *testing.T) {
	forSeeds(t, 10, func(t *testing.T, r *rand.Rand) {
		b := new(Baseline)
		number := 0
		for i := range 200 {
			live := PolicyVersion{Document: policyOf(fmt.Sprint(r.IntN(5))), At: someTime(r), ReadAs: oneOf(r, "cmkeeper", "other")}
			res := Restoration{By: fmt.Sprint("e", r.IntN(20)), At: someTime(r), Taken: Hash(live.Document)}
			good, had := b.Good()
			see := r.IntN(4)
			switch see {
			case 0, 1:
				isGood := r.IntN(4) == 0
				b = step[Baseline]{"See", func(b *Baseline) { b.See(live, isGood) }}.play(t, b)
			case 2:
				b = step[Baseline]{"Take", func(b *Baseline) { b.Take(live.Document, res) }}.play(t, b)
			default:
				b.add(PolicyVersion{Document: live.Document, At: live.At, AcceptedBy: "alice"})
			}
			now, has := b.Good()
			switch {
			case had && !has, has && now.Number < good.Number:
				t.Errorf("step %d drops the good version %d of %+v", i, good.Number, b.Versions)
			case see > 1 && now.Number != good.Number:
				t.Errorf("step %d makes version %d the good one, which was never live", i, now.Number)
			case see <= 1 && now.Number != good.Number && now.SHA256 != Hash(live.Document):
				t.Errorf("step %d makes version %d the good one, and another policy is live", i, now.Number)
			}
			atMost(t, "versions", len(b.Versions), maxVersions)
			if !slices.IsSortedFunc(b.Versions, func(v, o PolicyVersion) int { return v.Number - o.Number }) {
				t.Errorf("step %d: the versions are out of order", i)
			}
			if n := newest(b.Versions); n != nil {
				if n.Number < number {
					t.Errorf("step %d: number %d is used again", i, n.Number)
				}
				number = n.Number
			}
			if t.Failed() {
				return
			}
		}
	})
}

func TestBucketTransitions(t *testing.T) {
	forSeeds(t, 50, func(t *testing.T, r *rand.Rand) {
		b := new(Bucket)
		for range 20 {
			key, at := oneOf(r, "", "k1", "k2"), someTime(r)
			aliases := oneOf(r, nil, []string{"alias/a"}, []string{"alias/a", "alias/b"})
			denies := oneOf(r, nil, new(true), new(false))
			b = step[Bucket]{"See", func(b *Bucket) { b.See("bucket", key, key, aliases, denies, at) }}.play(t, b)
		}
	})
}

// pointing are the keys that an alias pointed to, in a row each once. Of one that it
// pointed to three times and more, not every time is kept: then they are a set.
func pointing(a *Alias, set bool) []string {
	var keys []string
	for _, h := range a.History {
		keys = append(keys, fmt.Sprint(h.KeyARN, h.Deleted))
	}
	if set {
		slices.Sort(keys)
	}
	return slices.Compact(keys)
}

// often reports whether an alias pointed to a key more than twice.
func often(targets []Target) bool {
	return slices.ContainsFunc(targets, func(t Target) bool {
		n := 0
		for _, o := range targets {
			if o.sameAs(t) {
				n++
			}
		}
		return n > 2
	})
}

func TestAliasTransitions(t *testing.T) {
	forSeeds(t, 10, func(t *testing.T, r *rand.Rand) {
		a := new(Alias)
		for i := range 200 {
			target := Target{KeyARN: oneOf(r, "", "A", "B", "C", "D"), Since: someTime(r), Deleted: r.IntN(5) == 0, Known: r.IntN(3) > 0}
			if target.KeyARN == "" {
				target.Deleted = true
			}
			at, pending := someTime(r), Move{}
			if a.Pending != nil {
				pending = *a.Pending
			}
			started, live := oneOf(r, time.Time{}, at), oneOf(r, "A", "B")
			a = oneOf(r,
				step[Alias]{"Learn", func(a *Alias) { a.Learn(target) }},
				step[Alias]{"RecordMove", func(a *Alias) { a.RecordMove(Move{ID: fmt.Sprint(i), At: at}) }},
				step[Alias]{"Finish", func(a *Alias) { a.Finish(pending, started) }},
				step[Alias]{"Reconcile", func(a *Alias) { a.Reconcile("arn", live, target.Since, at) }},
			).play(t, a)
			atMost(t, "targets", len(a.History), maxHistory)
			if !slices.IsSortedFunc(a.History, func(t, o Target) int { return t.Since.Compare(o.Since) }) {
				t.Errorf("the history is out of order: %+v", a.History)
			}
			if p := a.Pending; p != nil && slices.Contains(p.From, p.To) {
				t.Errorf("a move from %q to %q", p.From, p.To)
			}
			if t.Failed() {
				return
			}
		}
	})
}

// inOrder learns targets in the given order, and deals with none of the moves.
func inOrder(targets []Target) *Alias {
	a := new(Alias)
	for i, l := range targets {
		a.Learn(l)
		a.RecordMove(Move{ID: fmt.Sprint(i), At: after(24 * time.Hour)})
	}
	return a
}

// sameInAnyOrder compares what is known after targets were learned as they come with
// what is known where they were learned as they happened.
func sameInAnyOrder(t *testing.T, targets []Target) {
	t.Helper()
	byTime := slices.SortedFunc(slices.Values(targets), func(a, b Target) int { return a.Since.Compare(b.Since) })
	// An alias that does not exist now moves nowhere: it was made again.
	again := Target{KeyARN: "Z", Since: after(12 * time.Hour), Known: true}
	want, got := inOrder(append(byTime, again)), inOrder(append(slices.Clone(targets), again))
	if diff := cmp.Diff(pointing(want, often(targets)), pointing(got, often(targets))); diff != "" {
		t.Errorf("the history depends on the order of %+v:\n%s", targets, diff)
	}
	from := func(a *Alias) (keys []string) {
		if p := a.Pending; p != nil {
			keys = append(keys, p.From...)
			if p.To != "Z" || slices.Contains(keys, p.To) {
				t.Errorf("a move from %q to %q", p.From, p.To)
			}
		}
		slices.Sort(keys)
		return keys
	}
	if diff := cmp.Diff(from(want), from(got)); diff != "" {
		t.Errorf("what is moved from depends on the order of %+v:\n%s", targets, diff)
	}
}

func TestAliasInAnyOrder(t *testing.T) {
	forSeeds(t, 500, func(t *testing.T, r *rand.Rand) {
		targets := make([]Target, 2+r.IntN(8))
		for i := range targets {
			targets[i] = Target{KeyARN: oneOf(r, "A", "B", "C"), Since: after(time.Duration(i) * time.Minute), Deleted: r.IntN(6) == 0, Known: true}
		}
		r.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
		sameInAnyOrder(t, targets)
		// And what the alias points to now is known without more.
		want := slices.MaxFunc(targets, func(a, b Target) int { return a.Since.Compare(b.Since) })
		if got, _ := inOrder(targets).Newest(); !got.sameAs(want) || !got.Since.Equal(want.Since) {
			t.Errorf("the newest target is %+v, want %+v", got, want)
		}
	})
}

// FuzzAliasOrder reads a target off each byte: its key, whether it was deleted, and
// its time.
func FuzzAliasOrder(f *testing.F) {
	f.Add([]byte{0x00, 0x20, 0x11}) // A, A again, and B between them, learned last
	f.Add([]byte{0x31, 0x22, 0x10, 0x05})
	f.Fuzz(func(t *testing.T, body []byte) {
		var targets []Target
		var taken [32]bool
		for _, b := range body {
			if slot := b >> 3; !taken[slot] { // of two changes at once nobody knows the order
				taken[slot] = true
				targets = append(targets, Target{KeyARN: string('A' + rune(b&3)), Deleted: b&4 != 0, Since: after(time.Duration(slot) * time.Minute), Known: true})
			}
		}
		sameInAnyOrder(t, targets)
	})
}

// FuzzStoredKey: whatever a build may have stored, reading and writing it loses
// nothing, and transitions of it are safe to apply twice.
func FuzzStoredKey(f *testing.F) {
	f.Add(uint64(1), []byte(`{"arn":"a","rotation":{},"states":[{"state":"Enabled","at":"2026-03-01T12:00:00Z"}]}`))
	f.Add(uint64(2), []byte(`{"calls":[{},{"known":true}],"repairs":[{"done":true}],"circuits":[{}],"put_backs":[{"told":true}]}`))
	f.Fuzz(func(t *testing.T, seed uint64, body []byte) {
		k := new(Key)
		if json.Unmarshal(body, k) != nil {
			return
		}
		if _, err := json.Marshal(k); err != nil {
			return // a time that Go reads and does not write
		}
		r := rand.New(rand.NewPCG(seed, 0))
		for range 20 {
			k = keyStep(r, k).play(t, k)
		}
	})
}

// FuzzStoredAlias is FuzzStoredKey for an alias.
func FuzzStoredAlias(f *testing.F) {
	f.Add([]byte(`{"arn":"a","history":[{"key_arn":"A","since":"2026-03-01T12:00:00Z"}],"pending":{"from":null,"to":"A"}}`), uint8(1))
	f.Fuzz(func(t *testing.T, body []byte, n uint8) {
		a := new(Alias)
		if json.Unmarshal(body, a) != nil {
			return
		}
		if _, err := json.Marshal(a); err != nil {
			return
		}
		a = step[Alias]{"Learn", func(a *Alias) {
			a.Learn(Target{KeyARN: string('A' + rune(n%4)), Since: after(time.Duration(n) * time.Minute)})
		}}.play(t, a)
		a = step[Alias]{"RecordMove", func(a *Alias) { a.RecordMove(Move{ID: "m", At: noon}) }}.play(t, a)
		atMost(t, "targets", len(a.History), maxHistory+1)
	})
}
