package reaction

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/posture"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/storage"
)

// Danger is something that is wrong as it stands, and the alert of a sweep about it, which
// needs no ID and has the severity that it has out of context.
type Danger struct {
	Name  string
	Alert alert.Alert
	// Count is how many things it is about, 0 for one: it is told again when there are more.
	Count int
	// Who, if not "", stands for them (ledger.WhoOf): it is told again when there are others.
	Who string
	// Told is the ID of the alert that told of it already, about something else than what is
	// watched; "" for none.
	Told string
}

// Watch looks at what is wrong with a thing as it stands, no matter who changed it and when,
// beside what the reactions of the case tell. Where they tell of a danger (alert.Dangers),
// that counts; of others a sweep tells. An account that is swept for the first time has
// them told together, when all of it was looked at. Who was told of a danger is told once
// when it is over: when two reads that are the consistency window apart do not show it.
type Watch struct {
	// Thing names what is watched in ids: a key's id, a bucket's name.
	Thing string
	// Live returns the dangers that the facts at hand show, the worst first, and reads
	// nothing. It is asked again after the reactions have acted.
	Live func() []Danger
	// Looked reports whether the facts at hand would show a danger of that name.
	Looked func(name string) bool
	// Ends reports whether the case's event ends a danger of that name. What else is not
	// there any more is left to the event that ended it, and to the sweep. A sweep needs none.
	Ends func(name string) bool
	// Standing is that of the working copy, and Update what changes the stored one.
	Standing func() *ledger.Standing
	Update   func(change func(*ledger.Standing)) Told
	// Key is the key that the thing is, for the alerts about what is over; nil for none.
	Key func() *alert.Key
	// Note, if set, is told where nothing else is.
	Note func() alert.Alert
	// Meets, if set, says instead of [Case.Meeting] whether what is new is only collected.
	Meets func(ctx context.Context) (bool, error)

	seen    ledger.Seen
	meeting bool
	wait    time.Duration
}

// Watch has a watch look, and returns the decision to tell what it sees. Everything else
// that is decided about the case has to be decided before.
func (c *Case) Watch(ctx context.Context, w Watch) (*Decision, error) {
	look := ledger.Look{Looked: w.Looked, At: c.At}
	for _, d := range w.Live() {
		o := ledger.Open{Name: d.Name, Severity: d.Alert.Severity, Kind: string(d.Alert.Kind), Title: d.Alert.Title, Count: d.Count, Who: d.Who}
		if c.IsSweep() {
			judged, exempt := c.judged(ctx, d.Alert)
			o.Severity, o.Exempt, o.Sensitive = judged.Severity, exempt, judged.Key != nil && judged.Key.Sensitive
		}
		look.Live = append(look.Live, o)
	}
	standing := w.Standing()
	if look.Judged = c.IsSweep(); look.Judged {
		var err error
		meets := w.Meets
		if meets == nil {
			meets = c.Meeting
		}
		if w.meeting, err = meets(ctx); err != nil {
			return nil, err
		}
	} else {
		ends := func(name string) bool {
			o := standing.Of(name)
			return w.Looked(name) && w.Ends(name) && o != nil && !c.Event.Time.Before(o.Since.Truncate(time.Second))
		}
		look.Looked, look.By, look.Call = ends, ledger.ActorOf(c.Event), c.Event.Name
		defer func() { w.wait = standing.Wait(ends, ledger.Now()) }()
	}
	w.seen = standing.See(look)
	for _, d := range w.Live() {
		if o := standing.Of(d.Name); d.Told != "" && o != nil && o.Alert == "" {
			told := *o
			told.Alert = d.Told
			standing.Told(told)
			w.seen.New = slices.DeleteFunc(w.seen.New, func(o ledger.Open) bool { return o.Name == d.Name })
		}
	}
	return &Decision{Watch: &w}, nil
}

// change is what a standing is to say once the alert of a decision is published.
type change struct {
	by *taken
	do func(*ledger.Standing)
}

// compose composes what the watch of t tells beside the alerts of all.
func (w *Watch) compose(ctx context.Context, c *Case, t *taken, all []*taken) {
	live := map[string]Danger{}
	for _, d := range w.Live() {
		live[d.Name] = d
	}
	var changes []change
	told := map[string]bool{}
	for _, o := range all {
		if c.IsSweep() && o.Tells != Happened {
			w.collect(o, live)
		}
		for _, a := range o.alerts {
			for _, name := range a.Dangers {
				d, is := live[name]
				switch {
				case is:
					told[name] = true
					changes = append(changes, change{o, tellsOf(d, a, c.At)})
				case a.Action.Status == alert.StatusDone:
					changes = append(changes, change{o, func(s *ledger.Standing) { s.Repaired(name) }})
				}
			}
		}
	}
	if c.IsSweep() && !w.meeting {
		for i, o := range slices.Concat(w.seen.New, w.seen.Worse) {
			if d, is := live[o.Name]; is && !told[o.Name] {
				a := c.standingAlert(ctx, w, d, o, i >= len(w.seen.New))
				t.alerts = append(t.alerts, a)
				changes = append(changes, change{t, tellsOf(d, a, c.At)})
			}
		}
	}
	if more := w.seen.More; len(more) > 0 && !w.meeting {
		if d, is := live[more[0].Name]; is {
			t.alerts = append(t.alerts, c.moreAlert(ctx, w, d, len(more)))
			changes = append(changes, change{t, func(s *ledger.Standing) { s.TellMore(len(more)) }})
		}
	}
	for _, o := range w.seen.Over {
		t.alerts = append(t.alerts, c.ending(w, o))
		changes = append(changes, change{t, func(s *ledger.Standing) { s.Ended(o) }})
	}
	w.note(t, all)
	if len(changes) > 0 {
		t.Told = t.Told.and(w.Update(func(s *ledger.Standing) {
			for _, ch := range changes {
				if ch.by.err == nil {
					ch.do(s)
				}
			}
		}))
	}
}

// collect leaves to the alert about the whole account what a decision says of dangers that
// nobody was told of before, if it did nothing about them. What people were told of is not
// told again.
func (w *Watch) collect(o *taken, live map[string]Danger) {
	standing := w.Standing()
	known := func(name string) bool {
		of := standing.Of(name)
		if _, is := live[name]; !is || of == nil {
			return false
		}
		if of.Alert == "" {
			return w.meeting
		}
		return o.Tells == Stands
	}
	o.alerts = slices.DeleteFunc(o.alerts, func(a alert.Alert) bool {
		switch a.Action.Status {
		case alert.StatusDone, alert.StatusFailed, alert.StatusResolved:
			return false
		case "", alert.StatusNone, alert.StatusWouldDo, alert.StatusRefused:
		}
		return slices.ContainsFunc(a.Dangers, known)
	})
}

// note adds the note, where nobody tells anything of the event or is about to.
func (w *Watch) note(t *taken, all []*taken) {
	if w.Note != nil && w.wait == 0 && !slices.ContainsFunc(all, func(o *taken) bool { return len(o.alerts) > 0 }) {
		t.alerts = append(t.alerts, w.Note())
	}
}

// tellsOf notes that an alert tells of a danger. It counts as told with the severity that it
// has by itself, if that is more: who did it, and when, makes the alert about it quieter.
func tellsOf(d Danger, a alert.Alert, at time.Time) func(*ledger.Standing) {
	told := ledger.Open{Name: d.Name, Kind: string(a.Kind), Severity: a.Severity, Title: a.Title, Count: d.Count, Who: d.Who, Since: at, Alert: a.ID}
	if d.Alert.Severity.Rank() > told.Severity.Rank() {
		told.Severity = d.Alert.Severity
	}
	return func(s *ledger.Standing) { s.Told(told) }
}

// standingAlert is the alert of a sweep about a danger that no reaction tells.
func (c *Case) standingAlert(ctx context.Context, w *Watch, d Danger, o ledger.Open, worse bool) alert.Alert {
	a, _ := c.judged(ctx, d.Alert)
	a.ID = fmt.Sprintf("sweep/%s/standing/%s/%d", w.Thing, o.Name, o.Since.UnixMilli())
	if worse {
		a.ID += "/" + string(o.Severity)
	}
	if worse && d.Count > 0 { // there may be as many once more, after there were fewer
		a.ID += fmt.Sprintf("/%d/%d", d.Count, w.Standing().At.UnixMilli())
	}
	if worse && d.Who != "" { // there may be others, as many
		a.ID += fmt.Sprintf("/%x", sha256.Sum256([]byte(d.Who)))[:17]
	}
	return a
}

// moreAlert is the alert of a sweep that there are so many more dangers than are told one by
// one. worst is the worst of them.
func (c *Case) moreAlert(ctx context.Context, w *Watch, worst Danger, n int) alert.Alert {
	a, _ := c.judged(ctx, worst.Alert)
	a.ID = fmt.Sprintf("sweep/%s/standing-more/%d/%d", w.Thing, n, w.Standing().At.UnixMilli())
	a.Dangers = nil
	a.Summary = fmt.Sprintf("The sweep found more dangers than the %d of one thing that are told one by one. The worst of these %d: %s. %s", ledger.MostOpen, n, a.Title, a.Summary)
	a.Title = fmt.Sprintf("%d dangers more than are told one by one, such as: %s", n, a.Title)
	a.Next = append([]string{"List all of them: the command keys of cmkeeper shows what is wrong with a key, and each of its grants that reach outside. When some are over, the next sweep reports the remaining ones one by one."}, a.Next...)
	return a
}

// ending is the alert that a danger is over that people were told of.
func (c *Case) ending(w *Watch, o ledger.Open) alert.Alert {
	a := c.NewAlert(alert.Kind(o.Kind), "")
	a.ID = fmt.Sprintf("resolved/%s/%s/%d", w.Thing, o.Name, o.Since.UnixMilli())
	a.Resolves, a.Thread, a.Severity = o.Alert, o.Thread, finding.Info
	a.Title = "Resolved: " + o.Title
	who := "A sweep found this. Who ended it does not show: no event has reported it."
	if a.Actor = AlertActor(o.By); o.Call != "" {
		by := "Somebody (the event does not say who)"
		if o.By != nil && o.By.Name != "" {
			by = o.By.Name
		}
		who, a.EventName = fmt.Sprintf("%s called %s.", by, o.Call), o.Call
	}
	a.Summary = fmt.Sprintf("%s What the former alert told of is over: it was first seen at %s, and not any more at %s and at %s.", who, TimeText(o.Since), TimeText(o.Gone), TimeText(c.At))
	a.Action = alert.Action{Status: alert.StatusResolved, Description: "cmkeeper read this twice, at least a minute apart. It changed nothing."}
	if w.Key != nil {
		a.Key = w.Key()
	}
	return a
}

// watching is the wait for the second read that shows that something is over.
func watching(all []*taken) error {
	for _, t := range all {
		if t.Watch != nil && t.Watch.wait > 0 {
			return outcome.RetryAfter(t.Watch.wait, errors.New("what people were told of is over: waiting to read it once more"))
		}
	}
	return nil
}

// Meeting reports whether the account is swept for the first time by a build that tells
// what it finds at first.
func (c *Case) Meeting(ctx context.Context) (bool, error) {
	return c.account.meeting.get(ctx, ledger.AccountName, func(ctx context.Context, name string) (bool, error) {
		var doc ledger.Account
		switch _, err := c.State.Get(ctx, name, &doc); {
		case errors.Is(err, state.ErrUnreadable):
			return false, nil // the sweep tells of that, and of each danger by itself
		case err != nil && !errors.Is(err, state.ErrNotFound):
			return false, fmt.Errorf("read document of the account: %w", err)
		}
		return doc.Met.IsZero(), nil
	})
}

// AccountLedger is the working copy of the document of the account.
func (c *Case) AccountLedger(ctx context.Context) (*ledger.Account, error) {
	if c.unstored != nil {
		return nil, c.unstored
	}
	return c.own.open(ctx, c.State, ledger.AccountName, "the account")
}

// Opened is the document of the event's key where that was read, nil where nobody asked for
// it or it cannot be stored.
func (c *Case) Opened() *ledger.Key {
	if c.unstored != nil || c.ledger.value == nil {
		return nil
	}
	return c.ledger.value.Doc()
}

// AccountRead is what was read of the account's settings so far. It reads nothing.
func (c *Case) AccountRead() (stores posture.Fact[[]inventory.KeyStore], encrypted posture.Fact[bool]) {
	return c.stores.read(), c.ebs.read()
}

// StorageRead is what AWS Config showed, if it was asked. It asks nothing.
func (c *Case) StorageRead() posture.Fact[storage.Look] { return c.storage.read() }

// AliasesRead are the aliases of the account, if they were read. It reads nothing.
func (c *Case) AliasesRead() posture.Fact[[]inventory.Alias] { return c.account.aliases.read() }

// AsRead is what was read of the event's key so far. It reads nothing.
func (c *Case) AsRead() posture.Key {
	k := posture.Key{
		Key: c.key.read().Value, Rotation: c.rotation.read(), Policy: c.policy.read(), Grants: c.grants.read(), Tags: c.tags.read(), LastRotation: c.rotated.read(),
		Approved: c.Approved, Rotated: c.Known().Rotation.Seen, Aliases: c.Known().Aliases,
		Worked: slices.ContainsFunc(c.Known().States, func(s ledger.State) bool { return s.State == ledger.StateEnabled }),
	}
	if aliases := c.aliases.read(); aliases.Known() {
		k.Aliases = AliasNames(aliases.Value)
	}
	return k
}

// read is the fact as far as it is known.
func (f *fact[T]) read() posture.Fact[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
		return posture.Fact[T]{}
	}
	return posture.Fact[T]{Value: f.value, At: f.at, Err: f.err}
}
