package cli

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/state"
)

// topics are those that get every alert, the first one first. What it reads was checked.
func (a Alerts) topics() []alert.Topic {
	topics, _ := parseTopics(a.AlertTopicARN, a.AlertFormats)
	return topics
}

// publisher publishes as a member of the fleet does.
func (c Config) publisher(topics alert.SNS, queues alert.SQS, store *state.Store, log *slog.Logger) *alert.Publisher {
	p := c.Alerts.publisher(topics, store, log)
	p.Grouping = c.grouping(queues)
	return p
}

// grouping is how alerts are collected into digests, nil where each is sent at once. A
// member that works only on jobs collects none: their alerts stand alone.
func (c Config) grouping(queues alert.SQS) *alert.Grouping {
	if c.AlertGroupInterval == 0 || !c.runsEvents() {
		return nil
	}
	return &alert.Grouping{SQS: queues, QueueURL: c.EventsQueueURL, Wait: c.AlertGroupWait, Interval: c.AlertGroupInterval}
}

// parseTopics returns the first topic, if there is one, and those of ALERT_FORMATS:
// arn:aws:sns:…=chat,arn:aws:sns:…=text.
func parseTopics(first, formats string) ([]alert.Topic, error) {
	var topics []alert.Topic
	if first != "" {
		topics = append(topics, alert.Topic{ARN: first})
	}
	for pair := range strings.SplitSeq(formats, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		arn, word, _ := strings.Cut(pair, "=")
		t := alert.Topic{ARN: arn}
		if err := topicARN(arn); err != nil {
			return nil, fmt.Errorf("%q %w, then = and a format", pair, err)
		}
		if err := t.Format.UnmarshalText([]byte(word)); err != nil {
			return nil, fmt.Errorf("topic %s: %w", arn, err)
		}
		i := slices.IndexFunc(topics, func(known alert.Topic) bool { return known.ARN == arn })
		switch {
		case i < 0:
			topics = append(topics, t)
		case topics[i].Format != (alert.Format{}):
			return nil, fmt.Errorf("topic %s is named twice", arn)
		default:
			topics[i] = t
		}
	}
	return topics, nil
}

func newAlertsCommand(p *process) *cobra.Command {
	command := &cobra.Command{
		Use: "alerts", Short: "List alerts that were not delivered yet, send them again, and test the topics",
		Long: `Works with the alerts of a fleet: CMKEEPER_STATE_BUCKET and CMKEEPER_ALERT_TOPIC_ARN (and CMKEEPER_ALERT_FORMATS) are the fleet's.`,
	}
	command.AddCommand(newAlertsListCommand(p), newAlertsResendCommand(p), newAlertsTestCommand(p))
	return command
}

// publisher returns a publisher as the fleet has one, but without grouping.
func publisher(ctx context.Context, p *process) (*alert.Publisher, byHand, error) {
	c, err := loadForDesk[struct {
		Common
		Alerts
	}](ctx, p.environment, "STATE_BUCKET", "ALERT_TOPIC_ARN")
	if err != nil {
		return nil, byHand{}, err
	}
	hand, err := newByHand(ctx, p, c.Common, 16)
	if err != nil {
		return nil, hand, err
	}
	return c.publisher(hand.sns, hand.store(c.StateBucket), c.logger(p.stderr)), hand, nil
}

// publisher publishes each alert at once.
func (a Alerts) publisher(topics alert.SNS, store *state.Store, log *slog.Logger) *alert.Publisher {
	return &alert.Publisher{SNS: topics, Store: store, Topics: a.topics(), Repeat: a.AlertRepeatInterval, Logger: log}
}

type alertsListCommand struct{ undelivered, json bool }

func newAlertsListCommand(p *process) *cobra.Command {
	var l alertsListCommand
	command := &cobra.Command{
		Use: "list", Short: "List the alerts that could not be delivered, and those that wait to be sent in a digest", Args: cobra.NoArgs,
		RunE: p.action(l.run),
	}
	command.Flags().BoolVar(&l.undelivered, "undelivered", false, "only those that could not be delivered")
	command.Flags().BoolVar(&l.json, "json", false, "print one JSON object")
	return command
}

// waitingAlerts is what "alerts list" finds.
type waitingAlerts struct {
	Undelivered []alert.Undelivered `json:"undelivered"`
	Collected   []alert.Collected   `json:"collected,omitempty"`
}

func (l *alertsListCommand) run(ctx context.Context, p *process) error {
	alerts, _, err := publisher(ctx, p)
	if err != nil {
		return err
	}
	var w waitingAlerts
	w.Undelivered, err = alerts.Undelivered(ctx)
	if !l.undelivered && (err == nil || errors.Is(err, state.ErrUnreadable)) {
		var more error
		w.Collected, more = alerts.Collected(ctx)
		err = errors.Join(err, more)
	}
	if err != nil && !errors.Is(err, state.ErrUnreadable) { // the others are listed all the same
		return err
	}
	if l.json {
		return errors.Join(err, printJSON(p.stdout, w))
	}
	for _, u := range w.Undelivered {
		fmt.Fprintf(p.stdout, "undelivered since %s  %s  %s\n    id %s\n    %s\n",
			u.Since.Format(time.RFC3339), u.Alert.Severity, alert.Escape(u.Alert.Title), alert.Escape(u.Alert.ID), alert.Escape(u.Cause))
	}
	for _, c := range w.Collected {
		fmt.Fprintf(p.stdout, "%d alerts of %s, to be sent at %s\n", c.Alerts, alert.Escape(c.Group), c.Due.Format(time.RFC3339))
	}
	if err == nil && len(w.Undelivered)+len(w.Collected) == 0 {
		fmt.Fprintln(p.stdout, "Every alert was sent.")
	}
	return err
}

func newAlertsResendCommand(p *process) *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use: "resend {ID... | --all}", Short: "Send alerts that could not be delivered; those that were delivered since are not sent again",
		RunE: func(c *cobra.Command, ids []string) error {
			return p.action(func(ctx context.Context, p *process) error {
				if all == (len(ids) > 0) {
					return usageError{errors.New("give the ids of alerts, as \"cmkeeper alerts list\" shows them, or --all")}
				}
				return resend(ctx, p, ids)
			})(c, ids)
		},
	}
	command.Flags().BoolVar(&all, "all", false, "all of them")
	return command
}

// resend sends the undelivered alerts with these ids, or all where there are none.
func resend(ctx context.Context, p *process, ids []string) error {
	alerts, _, err := publisher(ctx, p)
	if err != nil {
		return err
	}
	list, err := alerts.Undelivered(ctx)
	if err != nil && !errors.Is(err, state.ErrUnreadable) {
		return err
	}
	errs := []error{err}
	for _, id := range ids {
		if !slices.ContainsFunc(list, func(u alert.Undelivered) bool { return u.Alert.ID == id }) {
			errs = append(errs, fmt.Errorf("alert %q is not an undelivered one: \"cmkeeper alerts list\" lists those", id))
		}
	}
	for _, u := range list {
		if len(ids) > 0 && !slices.Contains(ids, u.Alert.ID) {
			continue
		}
		if err := alerts.Resend(ctx, u); err != nil {
			errs = append(errs, fmt.Errorf("alert %s: %w", alert.Escape(u.Alert.ID), err))
			continue
		}
		fmt.Fprintf(p.stdout, "sent: %s\n", alert.Escape(u.Alert.Title))
	}
	return errors.Join(errs...)
}

func newAlertsTestCommand(p *process) *cobra.Command {
	var kind string
	command := &cobra.Command{
		Use: "test", Short: "Send an example of each kind of alert to all topics, marked as a test", Args: cobra.NoArgs,
		RunE: p.action(func(ctx context.Context, p *process) error { return sendExamples(ctx, p, alert.Kind(kind)) }),
	}
	command.Flags().StringVar(&kind, "kind", "", "only of this `kind`")
	return command
}

// recordedExamples are alerts of played events, one of each kind, as package handlers'
// tests have recorded them.
//
//go:embed examples.json
var recordedExamples []byte

// readExamples returns the examples, as of now.
func readExamples() ([]alert.Alert, error) {
	var examples []alert.Alert
	if err := json.Unmarshal(recordedExamples, &examples); err != nil {
		return nil, fmt.Errorf("read the examples: %w", err)
	}
	for i := range examples {
		examples[i].Time = time.Now().UTC().Truncate(time.Second)
	}
	return examples, nil
}

// sendExamples sends the examples of a kind, or all.
func sendExamples(ctx context.Context, p *process, kind alert.Kind) error {
	examples, err := readExamples()
	if err != nil {
		return err
	}
	if kind != "" {
		var kinds []string
		for _, a := range examples {
			kinds = append(kinds, string(a.Kind))
		}
		examples = slices.DeleteFunc(examples, func(a alert.Alert) bool { return a.Kind != kind })
		if len(examples) == 0 {
			return usageError{fmt.Errorf("kind %q: there are %s", kind, strings.Join(kinds, ", "))}
		}
	}
	alerts, hand, err := publisher(ctx, p)
	if err != nil {
		return err
	}
	run := rand.Text()
	for _, a := range examples {
		a.ID, a.Title = "test/"+run+"/"+string(a.Kind), "TEST, nothing happened: "+a.Title
		a.Summary = "This is a test that " + hand.caller + " sent; nothing of it happened. " + a.Summary
		if err := alerts.Publish(ctx, a); err != nil {
			return fmt.Errorf("send the example of kind %s: %w", a.Kind, err)
		}
		fmt.Fprintf(p.stdout, "sent: %s\n", a.Subject())
	}
	return nil
}
