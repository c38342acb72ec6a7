package alert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"

	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

const (
	// claimTime is how long an alert stays claimed by a publisher that never reported back.
	claimTime = time.Minute
	// sizeLimit keeps a message under SNS's 256 KiB, which counts every rendering
	// and attribute, with room for what subscriptions wrap around it.
	sizeLimit = 200 << 10
	// attributeLimit is how many characters of a value an attribute carries.
	attributeLimit = 100
)

// SNS is what Publisher calls; *sns.Client has it.
type SNS interface {
	Publish(context.Context, *sns.PublishInput, ...func(*sns.Options)) (*sns.PublishOutput, error)
}

// Publisher is the Sink that tells everybody: it publishes alerts to an SNS
// topic (a standard one). It is safe for concurrent use.
//
// Of all alerts with the same ID, in the whole fleet, one is published: a claim
// in the state bucket says so. Where in doubt (a publisher died, the state bucket
// cannot be reached) the alert is published again rather than lost.
type Publisher struct {
	SNS      SNS
	Store    *state.Store
	TopicARN string
	// Logger is told of each alert that was published, and of what went wrong
	// beside it; nil discards it.
	Logger *slog.Logger
}

// Publish publishes the alert, unless that has been done. While another worker
// is about to publish it the error is an outcome.RetryAfter: only when that
// worker has reported success is the alert known to be told.
func (p *Publisher) Publish(ctx context.Context, a Alert) error {
	name, err := a.name()
	if err != nil {
		return fmt.Errorf("name alert: %w", err)
	}
	log := p.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("alert", name, "kind", a.Kind)

	claim, err := p.Store.Claim(ctx, name+".json", claimTime)
	held, isHeld := errors.AsType[*state.HeldError](err)
	switch {
	case err == nil:
	case errors.Is(err, state.ErrDone):
		return nil
	case isHeld:
		return outcome.RetryAfter(held.After, fmt.Errorf("claim alert: %w", err))
	case ctx.Err() != nil:
		return fmt.Errorf("claim alert: %w", err)
	default: // the alarm must not hang on the state bucket
		log.WarnContext(ctx, "alert cannot be claimed, so it may be told more than once", "error", err)
	}
	if err := p.send(ctx, log, name, a); err != nil {
		p.settle(ctx, log, claim, (*state.Claim).Release)
		return err
	}
	log.InfoContext(ctx, "alert published", "severity", a.Severity, "event", Escape(a.EventName), "status", a.Action.Status, "title", Escape(a.Title))
	p.settle(ctx, log, claim, (*state.Claim).Done)
	return nil
}

// settle ends the claim, if there is one, even when ctx is done. A claim that
// cannot be ended runs out, and costs a duplicate at worst.
func (p *Publisher) settle(ctx context.Context, log *slog.Logger, claim *state.Claim, end func(*state.Claim, context.Context) error) {
	if claim == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := end(claim, ctx); err != nil {
		log.WarnContext(ctx, "claim of an alert cannot be ended, so it may be told more than once", "error", err)
	}
}

// send publishes the alert, cut to size.
func (p *Publisher) send(ctx context.Context, log *slog.Logger, name string, a Alert) error {
	// A publisher that outlives its claim would be a second one.
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	in, err := p.input(a)
	if err != nil {
		return fmt.Errorf("render alert: %w", err)
	}
	if size(in) > sizeLimit {
		if in, err = p.cut(ctx, log, name, a); err != nil {
			return fmt.Errorf("cut alert: %w", err)
		}
	}
	if _, err := p.SNS.Publish(ctx, in); err != nil {
		return fmt.Errorf("publish alert to %s: %w", p.TopicARN, err)
	}
	return nil
}

// cut stores the whole alert and returns a message with as much of it as fits.
func (p *Publisher) cut(ctx context.Context, log *slog.Logger, name string, a Alert) (*sns.PublishInput, error) {
	whole, err := a.JSON()
	if err != nil {
		return nil, err
	}
	address, err := p.Store.PutBlob(ctx, name+".whole.json", "application/json", bytes.NewReader(whole))
	if err != nil {
		log.WarnContext(ctx, "alert is told cut short, and the whole cannot be stored", "error", err)
	}
	var in *sns.PublishInput
	for _, l := range []limits{{rows: 200, chars: 1000}, {rows: 40, chars: 300}, {rows: 3, chars: 60}} {
		if in, err = p.input(a.cut(l, address)); err != nil {
			return nil, err
		}
		if size(in) <= sizeLimit { // as the last one always is
			break
		}
	}
	return in, nil
}

// input is the message: JSON for every protocol but those that people read.
func (p *Publisher) input(a Alert) (*sns.PublishInput, error) {
	machine, err := a.JSON()
	if err != nil {
		return nil, err
	}
	var message bytes.Buffer
	e := json.NewEncoder(&message)
	e.SetEscapeHTML(false)
	err = e.Encode(struct {
		Default string `json:"default"`
		Email   string `json:"email"`
		SMS     string `json:"sms"`
	}{string(machine), a.Text(), a.Subject()})
	if err != nil {
		return nil, err
	}
	attributes := map[string]types.MessageAttributeValue{}
	for name, value := range map[string]string{
		"severity": string(a.Severity), "kind": string(a.Kind), "event_name": a.EventName,
		"account": a.Account, "region": a.Region,
	} {
		if value != "" { // SNS refuses empty ones
			attributes[name] = types.MessageAttributeValue{
				DataType: aws.String("String"), StringValue: aws.String(Escape(shorten(value, attributeLimit))),
			}
		}
	}
	return &sns.PublishInput{
		TopicArn:          &p.TopicARN,
		MessageStructure:  aws.String("json"),
		Message:           aws.String(message.String()),
		Subject:           aws.String(a.Subject()),
		MessageAttributes: attributes,
	}, nil
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

// name is where the state bucket keeps what belongs to the alert, without the
// ending. A hash, so that any ID has one.
func (a Alert) name() (string, error) {
	identity := []byte(a.ID)
	if a.ID == "" {
		var err error
		if identity, err = a.JSON(); err != nil {
			return "", err
		}
	}
	sum := sha256.Sum256(identity)
	return "alerts/" + hex.EncodeToString(sum[:16]), nil
}

// limits bound a cut alert: rows of every list, characters of every text.
type limits struct{ rows, chars int }

// cut returns a copy of the alert within the limits that says where the whole is.
func (a Alert) cut(l limits, whole string) Alert {
	c := &Cut{Findings: len(a.Findings), Facts: len(a.Facts), Whole: whole}
	for _, f := range a.Facts {
		c.Values += len(f.Values)
	}
	a.Cut = c
	a.ID, a.EventName, a.EventID = l.text(a.ID), l.text(a.EventName), l.text(a.EventID)
	a.Kind, a.Severity = Kind(l.text(string(a.Kind))), Severity(l.text(string(a.Severity)))
	a.Account, a.Region = l.text(a.Account), l.text(a.Region)
	a.Title, a.Summary, a.Risk = l.text(a.Title), l.text(a.Summary), l.text(a.Risk)
	a.Action.Mode, a.Action.Description = l.text(a.Action.Mode), l.text(a.Action.Description)
	a.Action.Status = Status(l.text(string(a.Action.Status)))
	a.Next = l.list(a.Next)
	if a.Key != nil {
		k := *a.Key
		k.ARN, k.Description, k.State, k.Aliases = l.text(k.ARN), l.text(k.Description), l.text(k.State), l.list(k.Aliases)
		a.Key = &k
	}
	if a.Actor != nil {
		w := *a.Actor
		for _, s := range []*string{&w.Name, &w.Type, &w.ARN, &w.Account, &w.Session, &w.InvokedBy, &w.SourceIP, &w.UserAgent} {
			*s = l.text(*s)
		}
		a.Actor = &w
	}
	findings := make([]Finding, 0, l.rows)
	for _, f := range a.Findings[:min(l.rows, len(a.Findings))] {
		findings = append(findings, Finding{
			ID: l.text(f.ID), Severity: Severity(l.text(string(f.Severity))),
			Statement: l.text(f.Statement), Principal: l.text(f.Principal), Message: l.text(f.Message),
		})
	}
	a.Findings = findings
	facts := make([]Fact, 0, l.rows)
	for _, f := range a.Facts[:min(l.rows, len(a.Facts))] {
		facts = append(facts, Fact{Name: l.text(f.Name), Source: l.text(f.Source), Values: l.list(f.Values)})
	}
	a.Facts = facts
	return a
}

func (l limits) text(s string) string { return shorten(s, l.chars) }

func (l limits) list(all []string) []string {
	list := slices.Clone(all[:min(l.rows, len(all))])
	for i, s := range list {
		list[i] = l.text(s)
	}
	return list
}
