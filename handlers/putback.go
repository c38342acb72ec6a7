package handlers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// putBackReason names a decision about putting the good policy of a key back.
type putBackReason string

const (
	// Left, and nothing to be said about it.
	putBackFirst   putBackReason = "first"   // nobody changed a policy: the key was made with it
	putBackNothing putBackReason = "nothing" // nothing that is at or above the severity is new
	// Left, although there is something.
	putBackAccepted putBackReason = "accepted" // somebody accepted exactly this policy
	putBackUnknown  putBackReason = "unknown"  // no good policy is recorded
	putBackDrifted  putBackReason = "drifted"  // the policy before this one was not the good one
	putBackLockout  putBackReason = "lock-out" // under the good policy the account could not change it any more
	putBackUnread   putBackReason = "unread"   // nobody has read the key as us under the good policy
	putBackAgain    putBackReason = "again"    // it was done to the same actor before, and no human has said anything
	putBackOften    putBackReason = "often"    // it was done to many actors, and no human has said anything
	// To be put back.
	putBackGood putBackReason = "good"
)

type putBackInput struct {
	// change: somebody set the policy, so that there is something to undo.
	change bool
	// unjudged: the policy cannot be read, so that nobody knows what it opens.
	unjudged bool
	// worst is that of the findings that the good policy has not, "" for none.
	worst, threshold alert.Severity
	accepted         bool
	// The good policy: whether there is one, what was live before this change was
	// it, under it the account may change policies, and it was read by us.
	known, before, administered, read bool
	// earlier are those put back since somebody last accepted a policy of the key,
	// but for this occurrence; principal is who set this policy, "" if not known.
	earlier   []putBack
	principal string
	limit     int
}

// decidePutBack decides whether the good policy is put back. It undoes one
// change, and nothing that was left before; and it argues with nobody: what is
// set again by whom it was taken from is for people.
func decidePutBack(in putBackInput) putBackReason {
	same := func(p putBack) bool {
		return p.Principal == in.principal || p.Principal == "" || in.principal == ""
	}
	switch {
	case !in.change:
		return putBackFirst
	case !in.unjudged && (in.worst == "" || !in.worst.AtLeast(in.threshold)):
		return putBackNothing
	case in.accepted:
		return putBackAccepted
	case !in.known:
		return putBackUnknown
	case !in.before:
		return putBackDrifted
	case !in.administered:
		return putBackLockout
	case !in.read:
		return putBackUnread
	case slices.ContainsFunc(in.earlier, same):
		return putBackAgain
	case len(in.earlier) >= in.limit:
		return putBackOften
	}
	return putBackGood
}

// leftText says why the good policy is not put back.
func leftText(reason putBackReason, threshold alert.Severity) string {
	switch reason {
	case putBackFirst:
		return "The policy is left as it is: the key was made with it."
	case putBackNothing:
		return fmt.Sprintf("The policy is left as it is: nothing of severity %s or above is new in it.", threshold)
	case putBackUnknown:
		return "The policy is left as it is: no good policy of this key is recorded that could be put back."
	case putBackDrifted:
		return "The policy is left as it is: the one before it was not the recorded good one either, so putting that back would undo more than this change."
	case putBackLockout:
		return "The policy is left as it is: under the recorded good one nobody in the account could change it any more."
	case putBackUnread:
		return "The policy is left as it is: cmkeeper has never read the key as this role under the recorded good one, and might be shut out by it."
	case putBackAgain:
		return "The policy is left as it is: a policy of the same actor, or of one that is not known, was taken away before, and nobody has accepted one since. This is for people now."
	case putBackOften:
		return "The policy is left as it is: policies of so many actors were taken away that cmkeeper stops until somebody accepts one. This is for people now."
	case putBackAccepted, putBackGood:
	}
	return ""
}

// putBack is a good policy that was put back, or is about to be, with all that
// is needed to finish it and to tell it.
type putBack struct {
	By string `json:"by"` // the occurrence that it reacts to
	// The alert's id, and what it says of the occurrence.
	Alert string       `json:"alert"`
	Event string       `json:"event"`
	Time  time.Time    `json:"time"`
	Actor *alert.Actor `json:"actor,omitempty"`
	// Principal is whose policy was taken away, "" if that is not known.
	Principal string    `json:"principal,omitempty"`
	At        time.Time `json:"at"`
	// Taken is the hash of the policy that was taken away; Good is the version of the
	// one that was put back, and GoodAt when that was recorded.
	Taken  string    `json:"taken"`
	Good   int       `json:"good"`
	GoodAt time.Time `json:"good_at"`
	// Bypassed: it was set without KMS's lock-out check.
	Bypassed bool `json:"bypassed,omitempty"`
	// Acceptances is how many there were of the key's policies.
	Acceptances int `json:"acceptances,omitempty"`
	// Told: it is over, and people know.
	Told bool `json:"told,omitempty"`
}

// repair is the repair that it belongs to.
func (p putBack) repair() repair {
	rep := repair{Reaction: reactionPolicy, By: p.By, Alert: p.Alert, At: p.At}
	if p.Actor != nil {
		rep.Against = &party{Name: p.Actor.Name, Principal: p.Principal, Account: p.Actor.Account, At: p.Time}
	}
	return rep
}

// maxPutBacks bounds what is kept of them. No more than the flapping limit are
// made without a human, and those before an acceptance do not count.
const maxPutBacks = MaxFlapLimit

// putBackPatience is how long a sweep leaves one that was begun to the event that
// it was begun for.
const putBackPatience = 5 * time.Minute

// begun returns what an event has begun to put back and not finished; for a
// sweep, anything.
func (d *keyDoc) begun(e events.Event) *putBack {
	i := slices.IndexFunc(d.PutBacks, func(p putBack) bool { return !p.Told && (p.By == e.ID || isSweep(e)) })
	if i < 0 {
		return nil
	}
	return &d.PutBacks[i]
}

// earlierPutBacks returns those for other occurrences since the last acceptance.
func (d *keyDoc) earlierPutBacks(by string, acceptances int) []putBack {
	var found []putBack
	for _, p := range d.PutBacks {
		if p.By != by && p.Acceptances == acceptances {
			found = append(found, p)
		}
	}
	return found
}

// begin notes that a good policy is about to be put back.
func (d *keyDoc) begin(p putBack) {
	d.intend(opPutPolicy, p.repair())
	if !slices.ContainsFunc(d.PutBacks, func(o putBack) bool { return o.By == p.By }) {
		d.PutBacks = tail(append(d.PutBacks, p), maxPutBacks)
	}
}

// drop forgets one that is not made after all, unless another worker has made it.
func (d *keyDoc) drop(p putBack) {
	d.answered(opPutPolicy, p.repair(), nil, false, true)
	if d.repairOf(reactionPolicy, p.By) == nil {
		d.PutBacks = slices.DeleteFunc(d.PutBacks, func(o putBack) bool { return o.By == p.By })
	}
}

// over reports whether an event is about a policy that was taken away for it, with
// everything done.
func (d *keyDoc) over(e events.Event) bool {
	return slices.ContainsFunc(d.PutBacks, func(p putBack) bool { return p.By == e.ID && p.Told })
}

// stale reports whether a policy that was read may be one that was taken away just
// before: KMS is eventually consistent.
func (d *keyDoc) stale(document string, at time.Time) bool {
	return slices.ContainsFunc(d.PutBacks, func(p putBack) bool { return p.Taken == hashOf(document) && p.Told && at.Sub(p.At) < settling })
}

// fateOf returns what became of a policy that an event set and that is not live: it
// was taken away, or an older one was put back after it because of another.
func (d *keyDoc) fateOf(e events.Event, sent string) (taken, undone *putBack) {
	for i, p := range d.PutBacks {
		switch {
		case p.At.Before(e.Time):
		case p.Taken == hashOf(sent):
			return &d.PutBacks[i], nil
		case p.GoodAt.Before(e.Time):
			undone = &d.PutBacks[i]
		}
	}
	return nil, undone
}

var (
	// errChangedMeanwhile says that the live policy is not the one that was judged.
	errChangedMeanwhile = errors.New("the policy was changed meanwhile, and is judged again")
	// errBackAlready says that another worker has put the policy back.
	errBackAlready = errors.New("the good policy is live already")
)

// carryOut puts the good policy back as was intended, unless that is done, and
// tells it. It can be called again after a kill at any point.
func (r *Router) carryOut(ctx context.Context, key inventory.Key, p putBack, live string) error {
	base, err := ReadBaseline(ctx, r.state, key.ARN)
	if err != nil {
		return err
	}
	doc, err := r.knownKey(ctx, key.ARN)
	if err != nil {
		return err
	}
	rep := doc.repairOf(reactionPolicy, p.By)
	done := rep != nil && rep.Done
	good, ok := base.Version(p.Good)
	others := false
	switch isBad := hashOf(live) == p.Taken; {
	case ok && sameEffect(live, good.Document):
		others = !done // or ours, of which no answer came
	case done && now().Sub(p.At) < settling:
		return outcome.RetryAfter(readBackAgain, fmt.Errorf("policy of key %s: KMS does not show yet that it was put back", key.ARN))
	case done:
		// And changed again, which is another occurrence.
	case !ok || !isBad:
		return r.giveWay(ctx, key.ARN, p)
	default:
		err := r.replacePolicy(ctx, key.ARN, p, live, good)
		if others = errors.Is(err, errBackAlready); others {
			err = nil
		}
		if refused, ok := errors.AsType[*types.MalformedPolicyDocumentException](err); ok {
			return r.tellPutBackRefused(ctx, key, doc, p, live, refused)
		}
		if err != nil {
			return r.failed(ctx, r.putBackAlert(ctx, key, doc, base, p), r.config.Policy, "put the former key policy back", err)
		}
		live = good.Document
	}
	if base, err = ReadBaseline(ctx, r.state, key.ARN); err != nil { // with what was taken away
		return err
	}
	a := r.putBackAlert(ctx, key, doc, base, p)
	a.Action = alert.Action{Mode: string(Enforce), Status: alert.StatusDone,
		Description: fmt.Sprintf("cmkeeper put the policy of %s (version %d) back at %s and read it back.", timeText(good.At), p.Good, timeText(p.At))}
	switch {
	case !sameEffect(live, good.Document):
		a.Action.Description = fmt.Sprintf("cmkeeper put the policy of %s (version %d) back at %s. It was changed again since, which is told by itself.", timeText(good.At), p.Good, timeText(p.At))
	case others:
		a.Action.Description = fmt.Sprintf("The policy of %s (version %d) is live again, as read back. cmkeeper had begun to put it back; its call, that of another worker or somebody else's took effect.", timeText(good.At), p.Good)
	}
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	at := now()
	_, err = r.updateKey(ctx, key.ARN, func(doc *keyDoc) {
		if p := doc.begun(events.Event{ID: p.By}); p != nil {
			p.Told = true
		}
		if sameEffect(live, good.Document) {
			doc.Policy = &seenPolicy{Document: live, At: at}
		}
	})
	return err
}

// giveWay drops what was intended, because the live policy is another one now.
func (r *Router) giveWay(ctx context.Context, keyARN string, p putBack) error {
	if _, err := r.updateKey(ctx, keyARN, func(doc *keyDoc) { doc.drop(p) }); err != nil {
		return err
	}
	return outcome.RetryAfter(time.Second, fmt.Errorf("policy of key %s: %w", keyARN, errChangedMeanwhile))
}

// replacePolicy sets the good policy in place of the live one and checks it by
// reading it back. What is taken away is recorded first. KMS's own lock-out check
// stays on. KMS has no condition on what it replaces, so the live policy is read
// again just before.
func (r *Router) replacePolicy(ctx context.Context, keyARN string, p putBack, live string, good PolicyVersion) error {
	if err := updateBaseline(ctx, r.state, keyARN, func(b *Baseline) {
		if last, ok := b.taken(p.Taken); !ok || last.By != p.By {
			v := PolicyVersion{Document: live, At: p.At, By: p.By, Taken: true}
			if p.Actor != nil {
				v.Actor = p.Actor.Name
			}
			b.add(v)
		}
	}); err != nil {
		return err
	}
	err := r.perform(ctx, keyARN, opPutPolicy, p.repair(), func(ctx context.Context) (middleware.Metadata, error) {
		again, err := r.facts.Policy(ctx, keyARN)
		switch {
		case err != nil:
			return middleware.Metadata{}, err
		case sameEffect(again, good.Document):
			return middleware.Metadata{}, errBackAlready
		case again != live:
			return middleware.Metadata{}, r.giveWay(ctx, keyARN, p)
		}
		out, err := r.kms.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{
			KeyId: aws.String(keyARN), PolicyName: aws.String("default"), Policy: aws.String(good.Document),
		})
		if err != nil {
			return middleware.Metadata{}, err
		}
		return out.ResultMetadata, nil
	})
	if err != nil {
		if isRefusal(err) {
			_, noteErr := r.updateKey(ctx, keyARN, func(doc *keyDoc) { doc.drop(p) })
			err = errors.Join(err, noteErr)
		}
		return err
	}
	return confirm(ctx, "policy of key "+keyARN, func(ctx context.Context) (bool, error) {
		document, err := r.facts.Policy(ctx, keyARN)
		return err == nil && sameEffect(document, good.Document), err
	})
}

// putBackAlert is the alert about a policy that was taken away, but for what was done.
func (r *Router) putBackAlert(ctx context.Context, key inventory.Key, doc keyDoc, base Baseline, p putBack) alert.Alert {
	a := alert.Alert{
		ID: p.Alert, Kind: alert.KindPolicy, EventName: p.Event, EventID: p.By, Time: p.Time, Actor: p.Actor,
		Account: r.config.Identity.Account, Region: r.config.Region, Key: r.describe(ctx, key, doc),
	}
	good, _ := base.Version(p.Good)
	taken, ok := base.taken(p.Taken)
	var v verdict
	if ok {
		v = r.compare(&seenPolicy{Document: good.Document}, key.ARN, taken.Document, p.Bypassed)
	}
	a.Findings = v.found
	if n := len(doc.repairsSince(reactionPolicy, p.By, p.At.Add(-flappingWindow))); n >= flappingFinding {
		a.Findings = append(a.Findings, flapping(n, "policy"))
	}
	_, a.Severity = decidePolicy(policyInput{findings: a.Findings})
	r.tellPolicy(&a, true, v)
	id := shellQuote(keyID(key.ARN))
	a.Next = []string{
		"What was taken away, and what it would have changed:",
		r.policyCommand(fmt.Sprintf("diff baseline:%s@%d baseline:%s@%d", id, p.Good, id, taken.Number)),
		"If it was meant, accept exactly that policy and set it again:",
		r.policyCommand(fmt.Sprintf("baseline accept %s@%d", id, taken.Number)),
		"If the same actor sets such a policy again, cmkeeper will only tell. Once it is clear who it was, let it act again by accepting the policy that is live:",
		r.policyCommand("baseline accept " + id),
		r.trailCommand(key.ARN),
	}
	return a
}

// tellPutBackRefused tells that KMS does not take the good policy. Trying again
// would not change that.
func (r *Router) tellPutBackRefused(ctx context.Context, key inventory.Key, doc keyDoc, p putBack, live string, refused error) error {
	base, err := ReadBaseline(ctx, r.state, key.ARN) // with what was to be taken away
	if err != nil {
		return err
	}
	a := r.putBackAlert(ctx, key, doc, base, p)
	a.Action = alert.Action{Mode: string(Enforce), Status: alert.StatusRefused,
		Description: fmt.Sprintf("The policy is left as it is: KMS refuses the recorded good one (version %d). Either it names principals that do not exist any more, or it would not let cmkeeper's %s change the policy again. KMS says: %v", p.Good, r.config.Identity.word(), refused)}
	a.Next = append(r.byHandCommands(key.ARN, p.Good), r.trailCommand(key.ARN))
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	return r.recordJudged(ctx, key.ARN, live, p.At)
}

// policyCommand is one of cmkeeper's own commands, to be pasted where its
// variables are not set.
func (r *Router) policyCommand(command string) string {
	return "cmkeeper policy " + command + " --state-bucket " + shellQuote(r.config.StateBucket)
}

// byHandCommands put a recorded policy back.
func (r *Router) byHandCommands(keyARN string, version int) []string {
	return []string{
		r.policyCommand(fmt.Sprintf("baseline show %s@%d", shellQuote(keyID(keyARN)), version)) + " > good.json",
		r.kmsCommand("put-key-policy", keyARN, "--policy-name default", "--policy file://good.json"),
	}
}

func timeText(t time.Time) string { return t.UTC().Format(time.DateTime + " MST") }

// putBackInput reads off what decidePutBack needs.
func (r *Router) putBackInput(j judged, doc keyDoc) putBackInput {
	in := putBackInput{
		change:   j.event.Name == opPutPolicy || isSweep(j.event) && doc.Policy != nil && len(j.changes) > 0,
		unjudged: j.policy == nil, threshold: r.config.RestoreSeverity,
		accepted: j.base.accepts(j.document),
		earlier:  doc.earlierPutBacks(j.event.ID, j.base.Acceptances), limit: r.config.FlapLimit,
	}
	if p := partyOf(j.event); p != nil {
		in.principal = p.Principal
	}
	fresh := j.found
	if good, ok := j.base.Good(); ok {
		in.known = true
		in.before = doc.Policy != nil && sameEffect(doc.Policy.Document, good.Document)
		if g := r.compare(nil, j.key.ARN, good.Document, false); g.policy != nil {
			fresh = keypolicy.NewFindings(g.found, j.found, keypolicy.Diff(g.policy, j.policy))
			in.administered = g.policy.Administered(r.policyContext(j.key.ARN, false))
		}
		// What only observes, and may not even be the fleet, says what the fleet would do.
		in.read = r.config.Policy != Enforce || good.ReadAs == r.config.Identity.Name
	}
	for _, f := range fresh {
		if in.worst == "" || f.Severity.AtLeast(in.worst) {
			in.worst = f.Severity
		}
	}
	return in
}

// newPutBack is the intent to put the good policy back in place of a judged one.
func (r *Router) newPutBack(j judged, doc keyDoc) putBack {
	a := r.judgedAlert(j, doc)
	p := putBack{
		By: j.event.ID, Alert: a.ID, Event: a.EventName, Time: a.Time, Actor: a.Actor, At: j.at,
		Taken: hashOf(j.document), Bypassed: j.bypassed, Acceptances: j.base.Acceptances,
	}
	if by := partyOf(j.event); by != nil {
		p.Principal = by.Principal
	}
	good, _ := j.base.Good()
	p.Good, p.GoodAt = good.Number, good.At
	return p
}
