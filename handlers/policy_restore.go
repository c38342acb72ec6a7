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
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// restoreReason names a decision about restoring the good policy of a key.
type restoreReason string

const (
	// Left, and nothing to be said about it.
	restoreFirst   restoreReason = "first"   // nobody changed a policy: the key was made with it
	restoreNothing restoreReason = "nothing" // nothing that is at or above the severity is new
	// Left, although there is something.
	restoreAccepted restoreReason = "accepted" // somebody accepted exactly this policy
	restoreUnknown  restoreReason = "unknown"  // no good policy is recorded
	restoreDrifted  restoreReason = "drifted"  // the policy before this one was not the good one
	restoreLockout  restoreReason = "lock-out" // under the good policy the account could not change it any more
	restoreUnread   restoreReason = "unread"   // nobody has read the key as us under the good policy
	restoreAgain    restoreReason = "again"    // it was done to the same actor before, and no human has said anything
	restoreOften    restoreReason = "often"    // it was done to many actors, and no human has said anything
	// To be restored.
	restoreGood restoreReason = "good"
)

type restoreInput struct {
	// change: somebody set the policy, so that there is something to undo.
	change bool
	// unjudged: the policy cannot be read, so that nobody knows what it opens.
	unjudged bool
	// worst is that of the findings that the good policy has not, "" for none.
	worst, threshold finding.Severity
	accepted         bool
	// The good policy: whether there is one, what was live before this change was
	// it, under it the account may change policies, and it was read by us.
	known, before, administered, read bool
	// earlier are those restored since somebody last accepted a policy of the key, but
	// for this occurrence; principal is who set this policy, "" if not known.
	earlier   []ledger.Restoration
	principal string
	// unconfirmed: nothing but a message says that it was they, and CloudTrail does not.
	unconfirmed bool
	limit       int
}

// decideRestore decides whether the good policy is restored. It undoes one change,
// and nothing that was left before. And it argues with nobody: where an actor sets a
// policy again that was taken away, people decide.
func decideRestore(in restoreInput) restoreReason {
	same := func(r ledger.Restoration) bool {
		return !in.unconfirmed && (r.Principal == in.principal || r.Principal == "" || in.principal == "")
	}
	switch {
	case !in.change:
		return restoreFirst
	case !in.unjudged && (in.worst == "" || !in.worst.AtLeast(in.threshold)):
		return restoreNothing
	case in.accepted:
		return restoreAccepted
	case !in.known:
		return restoreUnknown
	case !in.before:
		return restoreDrifted
	case !in.administered:
		return restoreLockout
	case !in.read:
		return restoreUnread
	case slices.ContainsFunc(in.earlier, same):
		return restoreAgain
	case len(in.earlier) >= in.limit:
		return restoreOften
	}
	return restoreGood
}

// decideRestore decides whether the good policy is restored. An actor whom only a message
// names may hold that up, until CloudTrail shows them or does not.
func (p *policyCase) decideRestore(ctx context.Context, doc *ledger.Key) {
	in := p.restoreInput(doc)
	if p.restore = decideRestore(in); p.restore == restoreAgain && p.Event.Claimed && !p.Await(ctx, "who set the policy") {
		in.unconfirmed = true
		p.restore = decideRestore(in)
	}
}

// restoreInput reads off what decideRestore needs.
func (p *policyCase) restoreInput(doc *ledger.Key) restoreInput {
	in := restoreInput{
		change:   p.Event.Name == reaction.PutKeyPolicy || p.differs() || p.IsSweep() && doc.Policy != nil && len(p.Changes) > 0,
		unjudged: p.Parsed == nil, threshold: p.Config.RestoreSeverity,
		accepted: p.base.Accepts(p.document),
		earlier:  doc.EarlierRestorations(p.Event.ID, p.base.Acceptances), limit: p.Config.FlapLimit,
	}
	if by := ledger.PartyOf(p.Event); by != nil {
		in.principal = by.Principal
	}
	fresh := p.Found
	if good, ok := p.base.Good(); ok {
		in.known = true
		in.before = doc.Policy != nil && reaction.SameEffect(doc.Policy.Document, good.Document)
		if g := p.JudgePolicy(p.key.ARN, good.Document, false); g.Parsed != nil {
			fresh = keypolicy.NewFindings(g.Found, p.Found, keypolicy.Diff(g.Parsed, p.Parsed))
			in.administered = g.Parsed.Administered(p.PolicyContext(p.key.ARN, false))
		}
		// What only observes, and may not even be the fleet, says what the fleet would do.
		in.read = p.Config.Policy != reaction.Enforce || good.ReadAs == p.Config.Identity.Name
	}
	for _, f := range fresh {
		if in.worst == "" || f.Severity.AtLeast(in.worst) {
			in.worst = f.Severity
		}
	}
	return in
}

// restoration is the intent to restore the good policy in place of the judged one.
func (p *policyCase) restoration() ledger.Restoration {
	good, _ := p.base.Good()
	r := ledger.Restoration{
		By: p.Event.ID, Alert: p.judgedAlert().ID, Event: p.Event.Name, Time: p.Event.Time, Actor: ledger.ActorOf(p.Event), At: p.At,
		Taken: ledger.Hash(p.document), Good: good.Number, GoodAt: good.At, Bypassed: p.bypassed, Acceptances: p.base.Acceptances,
	}
	if by := ledger.PartyOf(p.Event); by != nil {
		r.Principal = by.Principal
	}
	return r
}

// restorePatience is how long a sweep leaves a restoration that was begun to the event
// that it was begun for.
const restorePatience = 5 * time.Minute

var (
	// errChangedMeanwhile says that the live policy is not the one that was judged.
	errChangedMeanwhile = errors.New("the policy was changed meanwhile, and is judged again")
	// errRestoredAlready says that another worker has restored the policy.
	errRestoredAlready = errors.New("the good policy is live already")
)

// restoring carries out a restoration that is stored as intended. It can be done again
// after a kill at any point.
type restoring struct {
	*policyCase
	r       ledger.Restoration
	good    ledger.PolicyVersion
	live    string // the policy, as it was last read
	others  bool   // another worker, or somebody else, has restored the policy
	refused error  // what KMS says of the good policy, if it does not take it
	failure error
}

func (p *policyCase) restoring(r ledger.Restoration) *reaction.Decision {
	s := &restoring{policyCase: p, r: r, live: p.document}
	return &reaction.Decision{Act: s.act, Tell: s.tell, Told: reaction.Told{Key: s.told}}
}

// act restores the good policy, unless that is done.
func (s *restoring) act(ctx context.Context) error {
	s.failure = s.putGood(ctx)
	if refused, ok := errors.AsType[*types.MalformedPolicyDocumentException](s.failure); ok {
		s.refused, s.failure = refused, nil // trying again would not change that
	}
	return s.failure
}

func (s *restoring) putGood(ctx context.Context) (err error) {
	if s.base, err = s.Baseline(ctx); err != nil {
		return err
	}
	mine := s.Known().RepairOf(ledger.ReactionPolicy, s.r.By)
	done := mine != nil && mine.Done
	good, ok := s.base.Version(s.r.Good)
	s.good = good
	switch isBad := ledger.Hash(s.live) == s.r.Taken; {
	case ok && reaction.SameEffect(s.live, good.Document):
		s.others = !done // or ours, of which no answer came
	case done && ledger.Now().Sub(s.r.At) < ledger.ConsistencyWindow:
		return outcome.RetryAfter(reaction.ReadBackAgain, fmt.Errorf("policy of key %s: KMS does not show yet that it was restored", s.key.ARN))
	case done:
		// And changed again, which is another occurrence.
	case !ok || !isBad:
		return s.giveWay(ctx)
	default:
		if err := s.replace(ctx); err != nil && !errors.Is(err, errRestoredAlready) {
			return err
		} else if err != nil {
			s.others = true
		}
		s.live = good.Document
	}
	return nil
}

// giveWay drops what was intended, because the live policy is another one now.
func (s *restoring) giveWay(ctx context.Context) error {
	if err := s.Update(ctx, func(k *ledger.Key) { k.DropRestoration(s.r) }); err != nil {
		return err
	}
	return outcome.RetryAfter(time.Second, fmt.Errorf("policy of key %s: %w", s.key.ARN, errChangedMeanwhile))
}

// replace sets the good policy in place of the live one and checks it by reading it
// back. What is taken away is recorded first. KMS's own lock-out check stays on. KMS
// has no condition on what it replaces, so the live policy is read again just before.
func (s *restoring) replace(ctx context.Context) error {
	if err := s.UpdateBaseline(ctx, func(b *ledger.Baseline) { b.Take(s.live, s.r) }); err != nil {
		return err
	}
	err := s.Perform(ctx, reaction.PutKeyPolicy, s.r.Repair(), func(ctx context.Context) (middleware.Metadata, error) {
		again, err := s.PolicyAgain(ctx)
		switch {
		case err != nil:
			return middleware.Metadata{}, err
		case reaction.SameEffect(again, s.good.Document):
			return middleware.Metadata{}, errRestoredAlready
		case again != s.live:
			return middleware.Metadata{}, s.giveWay(ctx)
		}
		out, err := s.KMS.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{
			KeyId: aws.String(s.key.ARN), PolicyName: aws.String("default"), Policy: aws.String(s.good.Document),
		})
		if err != nil {
			return middleware.Metadata{}, err
		}
		return out.ResultMetadata, nil
	})
	if err != nil {
		if reaction.IsRefusal(err) {
			err = errors.Join(err, s.Update(ctx, func(k *ledger.Key) { k.DropRestoration(s.r) }))
		}
		return err
	}
	return reaction.ReadBack(ctx, "policy of key "+s.key.ARN, func(ctx context.Context) (bool, error) {
		document, err := s.PolicyAgain(ctx)
		return err == nil && reaction.SameEffect(document, s.good.Document), err
	})
}

// told notes that people know of the restoration, or that KMS refused it.
func (s *restoring) told(k *ledger.Key) {
	switch {
	case s.refused != nil:
		k.NotePolicy(s.live, s.r.At)
	default:
		k.MarkRestoration(s.r.By)
		if reaction.SameEffect(s.live, s.good.Document) {
			k.Policy = &ledger.Policy{Document: s.live, At: ledger.Now()}
		}
	}
}

// tell composes the alert about what was replaced, and what is live instead.
func (s *restoring) tell() []alert.Alert {
	if outcome.Of(s.failure).Action == outcome.Delay || s.base == nil {
		return nil
	}
	r, good := s.r, s.good
	taken, ok := s.base.TakenAway(r.Taken)
	s.earlier, s.Verdict = &ledger.Policy{Document: good.Document}, reaction.Verdict{}
	if ok {
		s.Verdict = s.JudgePolicy(s.key.ARN, taken.Document, r.Bypassed).From(good.Document)
	}
	a := s.common(alert.Alert{
		ID: r.Alert, Kind: alert.KindPolicy, EventName: r.Event, EventID: events.Occurrence(r.By), Time: r.Time, Actor: reaction.AlertActor(r.Actor),
		Account: s.Config.Identity.Account, Region: s.Config.Region,
	})
	a.Findings = append(a.Findings, reaction.Flapping(s.Known().Flapping(ledger.ReactionPolicy, r.By, r.At), "policy")...)
	_, a.Severity = decidePolicy(policyInput{findings: a.Findings})
	id := command.KeyID(arn.KeyID(s.key.ARN))
	a.Next = []string{
		"The policy that cmkeeper replaced, and what it would have changed:",
		s.PolicyCommand("diff %s %s", command.DiffSource(id, r.Good), command.DiffSource(id, taken.Number)),
		"If it was intended, accept exactly that policy and set it again:",
		s.PolicyCommand("baseline accept %s", command.BaselineOf(id, taken.Number)),
		"If the same actor sets such a policy again, cmkeeper will only send an alert. Once it is clear who it was, accept the live policy. cmkeeper then restores it again when necessary:",
		s.PolicyCommand("baseline accept %s", id),
		s.TrailCommand(),
	}
	a.Action = alert.Action{Mode: string(reaction.Enforce), Status: alert.StatusDone,
		Description: fmt.Sprintf("cmkeeper restored the policy of %s (version %d) at %s and read it back.", reaction.TimeText(good.At), r.Good, reaction.TimeText(r.At))}
	switch {
	case s.refused != nil:
		a.Action.Status = alert.StatusRefused
		a.Action.Description = fmt.Sprintf("The policy is left as it is: KMS refuses the recorded good one (version %d). Either it names principals that do not exist any more, or it would not let cmkeeper's %s change the policy again. KMS says: %v", r.Good, s.Config.Identity.Noun(), s.refused)
		a.Next = append(s.byHandCommands(r.Good), s.TrailCommand())
	case s.failure != nil:
		return s.Failed(a, s.Config.Policy, "restore the former key policy", s.failure)
	case !reaction.SameEffect(s.live, good.Document):
		a.Action.Description = fmt.Sprintf("cmkeeper restored the policy of %s (version %d) at %s. It has been changed again since; a separate alert reports that.", reaction.TimeText(good.At), r.Good, reaction.TimeText(r.At))
	case s.others:
		a.Action.Description = fmt.Sprintf("The policy of %s (version %d) is live again, as read back. Either cmkeeper's own call, one of another worker or somebody else's took effect.", reaction.TimeText(good.At), r.Good)
	}
	return []alert.Alert{a}
}
