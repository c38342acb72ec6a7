package alert

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// claimTime is how long an alert stays claimed by a publisher that never reported back.
	claimTime = time.Minute
	// sizeLimit keeps a message under SNS's 256 KiB, which counts every rendering
	// and attribute, with room for what subscriptions wrap around it.
	sizeLimit = 200 << 10
	// attributeLimit is how many characters of a value an attribute carries, and
	// attributeValues how many values.
	attributeLimit  = 100
	attributeValues = 30
)

// SNS is what Publisher calls; *sns.Client has it.
type SNS interface {
	Publish(context.Context, *sns.PublishInput, ...func(*sns.Options)) (*sns.PublishOutput, error)
}

// Publisher is the Sink that publishes alerts to SNS topics. It is safe for concurrent
// use.
//
// Of all alerts with the same ID, in the whole fleet, one is published: a claim
// in the state bucket says so. Where in doubt (a publisher died, the state bucket
// cannot be reached) the alert is published again rather than lost.
type Publisher struct {
	SNS   SNS
	Store *state.Store
	// Topics all get every alert, each in its format. With several of them each has
	// a claim of its own, so that one that fails neither holds up nor repeats the others.
	Topics []Topic
	// Repeat is how long after its publication an Ongoing alert is published again; 0 is never.
	Repeat time.Duration
	// Grouping, if set, makes one message of several alerts of a group. Then the consumer
	// of its queue has to call Flush, and each sweep Resume.
	Grouping *Grouping
	// Count, if set, is called with what happens to each alert: published, collected (stored
	// for a digest), digest (published as one) or failed.
	Count func(k Kind, s finding.Severity, delivery string)
	// Logger logs each published alert, and what failed beside it; nil logs nothing.
	Logger *slog.Logger
}

// Publish publishes the alert, or stores it for a digest, unless that has been done.
// While another worker is publishing it the error is an outcome.RetryAfter: the alert
// counts as published only once that worker has reported success. An alert that cannot
// be published is an error, and is stored for Resume.
func (p *Publisher) Publish(ctx context.Context, a Alert) error {
	name, err := a.name()
	if err != nil {
		return fmt.Errorf("name alert: %w", err)
	}
	if g, ok := groupOf(a); ok && p.Grouping != nil {
		return p.publishGrouped(ctx, name, a, g)
	}
	return p.deliver(ctx, name, a)
}

// claimPatience is how long Direct waits for the state bucket.
const claimPatience = 10 * time.Second

// Direct publishes the alert at once, by way of no digest, unless that has been done. It
// waits for the state bucket a short time only, and publishes without a claim then, so that
// the caller has to bound how often it calls. Errors are those of Publish.
func (p *Publisher) Direct(ctx context.Context, a Alert) error {
	name, err := a.name()
	if err != nil {
		return fmt.Errorf("name alert: %w", err)
	}
	claiming, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	log := p.logger().With("alert", name, "kind", a.Kind)
	return p.onceClaimed(ctx, claiming, log, name, p.repeatAfter(a), func(bounded context.Context) error {
		return p.publishToAll(bounded, log, name, a)
	})
}

func (p *Publisher) logger() *slog.Logger { return cmp.Or(p.Logger, slog.New(slog.DiscardHandler)) }

func (p *Publisher) count(a Alert, delivery string) {
	if p.Count != nil {
		p.Count(a.Kind, a.Severity, delivery)
	}
}

// deliver publishes the alert to every topic, unless that has been done, and stores it
// where it fails.
func (p *Publisher) deliver(ctx context.Context, name string, a Alert) error {
	log := p.logger().With("alert", name, "kind", a.Kind)
	return p.once(ctx, log, name, p.repeatAfter(a), func(bounded context.Context) error {
		return p.publishOrStore(ctx, bounded, log, name, a)
	})
}

// publishOrStore publishes the alert to every topic within bounded, a part of ctx, and
// stores it where it fails.
func (p *Publisher) publishOrStore(ctx, bounded context.Context, log *slog.Logger, name string, a Alert) error {
	err := p.publishToAll(bounded, log, name, a)
	if err != nil && ctx.Err() == nil && outcome.Of(err).Action != outcome.Delay {
		p.storeUndelivered(ctx, log, name, a, err)
	}
	return err
}

// repeatAfter is how long after its publication the alert is published again; 0 is never.
func (p *Publisher) repeatAfter(a Alert) time.Duration {
	if a.Ongoing {
		return p.Repeat
	}
	return 0
}

// once calls do under the claim called name, unless that has been done, and less than
// again ago.
func (p *Publisher) once(ctx context.Context, log *slog.Logger, name string, again time.Duration, do func(context.Context) error) error {
	return p.onceClaimed(ctx, ctx, log, name, again, do)
}

// onceClaimed is once, where the claim has a time of its own.
func (p *Publisher) onceClaimed(ctx, claiming context.Context, log *slog.Logger, name string, again time.Duration, do func(context.Context) error) error {
	claim, err := p.Store.ClaimAgain(claiming, name+".json", claimTime, again)
	held, isHeld := errors.AsType[*state.HeldError](err)
	switch {
	case err == nil:
	case errors.Is(err, state.ErrDone):
		return nil
	case isHeld:
		return outcome.RetryAfter(held.After, fmt.Errorf("claim alert: %w", err))
	case ctx.Err() != nil:
		return fmt.Errorf("claim alert: %w", err)
	default: // an alert must not depend on the state bucket
		log.WarnContext(ctx, "alert cannot be claimed and may be published more than once", "error", err)
	}
	// A publisher that outlives its claim would be a second one.
	bounded, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	if err := do(bounded); err != nil {
		p.endClaim(ctx, log, claim, (*state.Claim).Release)
		return err
	}
	p.endClaim(ctx, log, claim, (*state.Claim).Done)
	return nil
}

// endClaim ends the claim, if there is one, even when ctx is done. A claim that
// cannot be ended expires, and costs a duplicate at worst.
func (p *Publisher) endClaim(ctx context.Context, log *slog.Logger, claim *state.Claim, end func(*state.Claim, context.Context) error) {
	if claim == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := end(claim, ctx); err != nil {
		log.WarnContext(ctx, "claim of an alert cannot be ended: the alert may be published more than once", "error", err)
	}
}

// publishToAll publishes the alert to every topic, also where others fail.
func (p *Publisher) publishToAll(ctx context.Context, log *slog.Logger, name string, a Alert) error {
	errs := make([]error, len(p.Topics))
	switch len(p.Topics) {
	case 0:
		return errors.New("publish alert: there is no topic")
	case 1: // the alert's own claim suffices
		errs[0] = p.send(ctx, log, p.Topics[0], name, a)
	default:
		var wg sync.WaitGroup
		for i, t := range p.Topics {
			wg.Go(func() {
				errs[i] = p.once(ctx, log, name+"."+t.name(), p.repeatAfter(a), func(ctx context.Context) error {
					return p.send(ctx, log, t, name, a)
				})
			})
		}
		wg.Wait()
	}
	if err := errors.Join(errs...); err != nil {
		if outcome.Of(err).Action != outcome.Delay { // else another worker publishes it
			p.count(a, "failed")
		}
		return err
	}
	if a.Digest != nil {
		p.count(a, "digest")
	} else {
		p.count(a, "published")
	}
	log.InfoContext(ctx, "alert published", "severity", a.Severity, "event", Escape(a.EventName), "status", a.Action.Status, "title", Escape(a.Title))
	return nil
}

// send publishes the alert to a topic, cut to size.
func (p *Publisher) send(ctx context.Context, log *slog.Logger, t Topic, name string, a Alert) error {
	var in *sns.PublishInput
	var err error
	long := a.Digest != nil && len(a.Digest.Calls) > digestRows // which is not worth to be rendered in every format
	if !long {
		if in, err = t.message(a); err != nil {
			return fmt.Errorf("render alert: %w", err)
		}
	}
	if long || size(in) > sizeLimit {
		if in, err = p.cut(ctx, log, t, name, a); err != nil {
			return fmt.Errorf("cut alert: %w", err)
		}
	}
	if _, err := p.SNS.Publish(ctx, in); err != nil {
		return fmt.Errorf("publish alert to %s: %w", t.ARN, err)
	}
	return nil
}

// cut stores the whole alert and returns a message with as much of it as fits.
func (p *Publisher) cut(ctx context.Context, log *slog.Logger, t Topic, name string, a Alert) (*sns.PublishInput, error) {
	whole, err := a.JSON()
	if err != nil {
		return nil, err
	}
	address, err := p.Store.PutBlob(ctx, name+".whole.json", "application/json", bytes.NewReader(whole))
	if err != nil {
		log.WarnContext(ctx, "alert is published shortened, and the whole cannot be stored", "error", err)
	}
	var in *sns.PublishInput
	for _, l := range cutLimits {
		if in, err = t.message(a.cut(l, address)); err != nil {
			return nil, err
		}
		if size(in) <= sizeLimit { // as the last one always is
			break
		}
	}
	return in, nil
}

// size is what SNS counts of a message, on the safe side: the renderings as they
// are sent, with the escapes of the JSON around them.
func size(in *sns.PublishInput) int {
	n := len(*in.Message) + len(*in.Subject)
	for name, v := range in.MessageAttributes {
		n += len(name) + len(*v.DataType) + len(*v.StringValue)
	}
	return n
}

// alertsPrefix is where the state bucket has what belongs to single alerts.
const alertsPrefix = "alerts/"

// name is the alert's key in the state bucket, without the ending. A hash, so that any ID has one.
func (a Alert) name() (string, error) {
	identity := []byte(a.ID)
	if a.ID == "" {
		var err error
		if identity, err = a.JSON(); err != nil {
			return "", err
		}
	}
	sum := sha256.Sum256(identity)
	return alertsPrefix + hex.EncodeToString(sum[:16]), nil
}

// limits bound a cut alert: rows of every list, characters of every text.
type limits struct{ rows, chars int }

// cutLimits are tried in turn.
var cutLimits = []limits{{rows: 200, chars: 1000}, {rows: 40, chars: 300}, {rows: 3, chars: 60}}

// storedLimit is how large an alert is stored for later, in bytes.
const storedLimit = 32 << 10

// bounded returns the alert as it is stored for later: as much of it as storedLimit
// allows, the worst findings first. A digest is bounded already.
func (a Alert) bounded() Alert {
	if a.Digest != nil {
		return a
	}
	b := a
	for _, l := range cutLimits {
		if raw, err := b.JSON(); err == nil && len(raw) <= storedLimit {
			break
		}
		b = a.cut(l, "")
	}
	return b
}

// cut returns a copy of the alert within the limits that says where the whole is.
func (a Alert) cut(l limits, whole string) Alert {
	c := &Cut{Findings: len(a.Findings), Facts: len(a.Facts), Whole: whole}
	for _, f := range a.Facts {
		c.Values += len(f.Values)
	}
	if before := a.Cut; before != nil { // it was stored shortened
		c = &Cut{Findings: before.Findings, Facts: before.Facts, Values: before.Values, Whole: cmp.Or(before.Whole, whole)}
	}
	a.Cut = c
	a.ID, a.EventName, a.EventID = l.text(a.ID), l.text(a.EventName), l.text(a.EventID)
	a.Kind, a.Severity = Kind(l.text(string(a.Kind))), finding.Severity(l.text(string(a.Severity)))
	a.Account, a.Region = l.text(a.Account), l.text(a.Region)
	a.Title, a.Summary, a.Risk = l.text(a.Title), l.text(a.Summary), l.text(a.Risk)
	a.Action.Mode, a.Action.Description = l.text(a.Action.Mode), l.text(a.Action.Description)
	a.Action.Status = Status(l.text(string(a.Action.Status)))
	a.Next = l.steps(a.Next)
	if a.Key != nil {
		k := *a.Key
		k.ARN, k.Description, k.State, k.Aliases = l.text(k.ARN), l.text(k.Description), l.text(k.State), l.list(k.Aliases)
		a.Key = &k
	}
	if a.Actor != nil {
		w := *a.Actor
		for _, s := range []*string{&w.Name, &w.Type, &w.ARN, &w.Account, &w.Session, &w.Role, &w.MFA, &w.InvokedBy, &w.SourceIP, &w.UserAgent} {
			*s = l.text(*s)
		}
		a.Actor = &w
	}
	a.Findings = finding.WorstFirst(slices.Clone(a.Findings))
	a.Findings = slices.Clip(a.Findings[:min(l.rows, len(a.Findings))])
	for i := range a.Findings {
		f := &a.Findings[i]
		f.Severity = finding.Severity(l.text(string(f.Severity)))
		f.Statement, f.Principal, f.Message = l.text(f.Statement), l.text(f.Principal), l.text(f.Message)
	}
	a.Facts = slices.Clone(a.Facts[:min(l.rows, len(a.Facts))])
	for i, f := range a.Facts {
		a.Facts[i] = Fact{Name: l.text(f.Name), Source: l.text(f.Source), Values: l.list(f.Values)}
	}
	a.Incident, a.Resolves, a.Thread = l.text(a.Incident), l.text(a.Resolves), l.text(a.Thread)
	if a.Digest != nil {
		d := *a.Digest
		c.Calls = d.all()
		d.Group, d.Alerts = l.text(d.Group), l.text(d.Alerts)
		d.Calls = slices.Clone(d.Calls[:min(l.rows, len(d.Calls))])
		for i, c := range d.Calls {
			d.Calls[i] = l.call(c)
		}
		a.Digest = &d
	}
	return a
}

// call returns a row within the limits.
func (l limits) call(c Call) Call {
	if command.Is(c.Do) && len(c.Do) > l.chars {
		c.Do = "" // half a command may be another one
	}
	c.Do = l.text(c.Do)
	c.Kind, c.Severity, c.Status = Kind(l.text(string(c.Kind))), finding.Severity(l.text(string(c.Severity))), Status(l.text(string(c.Status)))
	for _, s := range []*string{&c.ID, &c.EventName, &c.Key, &c.Alias, &c.Session, &c.SourceIP, &c.Title, &c.Resolves} {
		*s = l.text(*s)
	}
	return c
}

func (l limits) text(s string) string { return shorten(s, l.chars) }

// steps are list for next steps: half a command may be another one.
func (l limits) steps(all []string) []string {
	list := slices.Clone(all[:min(l.rows, len(all))])
	for i, s := range list {
		if command.Is(s) && len(s) > l.chars {
			s = "A command is left out here, because it is too long. The full alert has it."
		}
		list[i] = l.text(s)
	}
	return list
}

func (l limits) list(all []string) []string {
	list := slices.Clone(all[:min(l.rows, len(all))])
	for i, s := range list {
		list[i] = l.text(s)
	}
	return list
}
