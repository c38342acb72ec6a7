// Package eventbridge is Amazon EventBridge's default bus in memory: rules with
// event patterns or rates, SQS targets behind their queue policies, and the
// targets' dead-letter queues.
//
// What AWS promises to retry for a day is tried once here: a queue of localaws
// refuses for good or not at all.
package eventbridge

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/pattern"
	"github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	principal = "events.amazonaws.com"

	enabled           = "ENABLED"
	enabledWithReads  = "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS"
	disabled          = "DISABLED"
	maxTargets        = 5
	maxPutEventsBytes = 1 << 20
)

// Queues is where targets are; *sqs.Service is one.
type Queues interface {
	Deliver(d sqs.Delivery) error
}

// Config says which account and Region a Service is in, and where its targets are.
type Config struct {
	Account, Region string
	Queues          Queues
	// Trail records what changes the rules. Nil discards it.
	Trail *trail.Recorder
}

// Service is the default bus of one account in one Region. It is an
// http.Handler that expects wire.WithRequest's values in the request's context.
type Service struct {
	config     Config
	operations map[string]wire.JSONOperation
	firing     sync.WaitGroup // schedules that fire at this moment

	mu     sync.RWMutex
	rules  map[string]*rule
	closed bool
}

// rule is a rule; the service's lock guards it.
type rule struct {
	name, arn, description, roleARN string
	patternText                     string
	pattern                         *pattern.Pattern // nil for a rule with only a schedule
	schedule                        string
	every                           time.Duration // zero for a rule without schedule
	timer                           *time.Timer   // runs while a schedule is enabled
	state                           string
	targets                         []target
}

// target is a target as its API has it.
type target struct {
	ID               string            `json:"Id"`
	ARN              string            `json:"Arn"`
	Input            string            `json:",omitempty"`
	InputPath        string            `json:",omitempty"`
	InputTransformer json.RawMessage   `json:",omitempty"`
	DeadLetterConfig *deadLetterConfig `json:",omitempty"`
	RetryPolicy      json.RawMessage   `json:",omitempty"`
	RoleARN          string            `json:"RoleArn,omitempty"`
	SQSParameters    *sqsParameters    `json:"SqsParameters,omitempty"`
}

type deadLetterConfig struct {
	ARN string `json:"Arn,omitempty"`
}

type sqsParameters struct {
	MessageGroupID string `json:"MessageGroupId,omitempty"`
}

// New returns a Service without rules.
func New(c Config) *Service {
	if c.Trail == nil {
		c.Trail = trail.New(trail.Config{})
	}
	s := &Service{config: c, rules: map[string]*rule{}}
	s.operations = map[string]wire.JSONOperation{
		"DeleteRule":            changes(s, "DeleteRule", s.deleteRule),
		"DescribeEventBus":      wire.JSON(s.describeEventBus),
		"DescribeRule":          wire.JSON(s.describeRule),
		"DisableRule":           changes(s, "DisableRule", s.disableRule),
		"EnableRule":            changes(s, "EnableRule", s.enableRule),
		"ListEventBuses":        wire.JSON(s.listEventBuses),
		"ListRuleNamesByTarget": wire.JSON(s.listRuleNamesByTarget),
		"ListRules":             wire.JSON(s.listRules),
		"ListTargetsByRule":     wire.JSON(s.listTargetsByRule),
		"PutEvents":             wire.JSON(s.putEvents),
		"PutRule":               wire.JSON(trail.Recorded(c.Trail, "events", "PutRule", s.putRule)),
		"PutTargets":            wire.JSON(trail.Recorded(c.Trail, "events", "PutTargets", s.putTargets)),
		"RemoveTargets":         wire.JSON(trail.Recorded(c.Trail, "events", "RemoveTargets", s.removeTargets)),
		"TestEventPattern":      wire.JSON(s.testEventPattern),
	}
	return s
}

// changes makes an operation without output whose calls are recorded.
func changes[In any](s *Service, name string, f func(ctx context.Context, in In) error) wire.JSONOperation {
	return wire.JSON(trail.Recorded(s.config.Trail, "events", name, func(ctx context.Context, in In) (any, error) { return nil, f(ctx, in) }))
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeJSON(w, r, s.operations)
}

// Close stops the schedules and waits for those that fire.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	for _, r := range s.rules {
		r.stop()
	}
	s.mu.Unlock()
	s.firing.Wait()
}

// Publish puts an event of an AWS service, a complete envelope, on the bus. It
// returns when every target of every matching rule has the event or has
// refused it.
func (s *Service) Publish(event []byte) {
	value, err := pattern.Decode(event)
	if err != nil {
		return // no rule can match it
	}
	read := isReadOnlyCall(event)
	var due []delivery
	s.mu.RLock()
	for _, name := range slices.Sorted(maps.Keys(s.rules)) {
		r := s.rules[name]
		if r.pattern == nil || r.state == disabled || read && r.state != enabledWithReads || !r.pattern.Match(value) {
			continue
		}
		due = append(due, r.deliveries(event)...)
	}
	s.mu.RUnlock()
	s.deliver(due)
}

// WantsReads reports whether a rule listens to calls that only read.
func (s *Service) WantsReads() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.rules {
		if r.state == enabledWithReads {
			return true
		}
	}
	return false
}

// isReadOnlyCall reports whether the event is a CloudTrail management event
// that only reads, which a rule in state ENABLED never sees.
func isReadOnlyCall(event []byte) bool {
	var envelope struct {
		DetailType string `json:"detail-type"`
		Detail     struct {
			ReadOnly        bool `json:"readOnly"`
			ManagementEvent bool `json:"managementEvent"`
		} `json:"detail"`
	}
	err := json.Unmarshal(event, &envelope)
	return err == nil && envelope.DetailType == "AWS API Call via CloudTrail" && envelope.Detail.ReadOnly && envelope.Detail.ManagementEvent
}

// delivery is an event on its way to one target.
type delivery struct {
	ruleARN string
	target  target
	event   []byte
}

func (r *rule) deliveries(event []byte) []delivery {
	var due []delivery
	for _, t := range r.targets {
		due = append(due, delivery{r.arn, t, event})
	}
	return due
}

// deliver sends events to their targets. What a target refuses goes to the
// target's dead-letter queue, and without one is lost, as on AWS.
func (s *Service) deliver(due []delivery) {
	for _, d := range due {
		m := sqs.Delivery{QueueARN: d.target.ARN, Body: d.body(), Service: principal, SourceARN: d.ruleARN}
		if d.target.SQSParameters != nil {
			m.GroupID = d.target.SQSParameters.MessageGroupID
		}
		err := s.config.Queues.Deliver(m)
		if err == nil || d.target.DeadLetterConfig == nil {
			continue
		}
		_ = s.config.Queues.Deliver(sqs.Delivery{ // refused there as well: lost
			QueueARN: d.target.DeadLetterConfig.ARN, Body: string(d.event), Service: principal, SourceARN: d.ruleARN,
			Attributes: map[string]sqs.MessageAttribute{
				"RULE_ARN":      sqs.String(d.ruleARN),
				"TARGET_ARN":    sqs.String(d.target.ARN),
				"ERROR_CODE":    sqs.String(deadLetterCode(err)),
				"ERROR_MESSAGE": sqs.String(wire.AsError(err).Message),
			},
		})
	}
}

// deadLetterCode is the ERROR_CODE that a target's dead-letter queue gets.
func deadLetterCode(err error) string {
	switch wire.AsError(err).Code {
	case "AccessDenied":
		return "NO_PERMISSIONS"
	case "QueueDoesNotExist":
		return "NO_RESOURCE"
	default:
		return "SDK_CLIENT_ERROR"
	}
}

// body is what the target receives: its constant input, the part of the event
// that its input path names, or the event.
func (d delivery) body() string {
	if d.target.Input != "" {
		return d.target.Input
	}
	part := json.RawMessage(d.event)
	for _, name := range pathNames(d.target.InputPath) {
		var fields map[string]json.RawMessage
		if json.Unmarshal(part, &fields) != nil || fields[name] == nil {
			return "null"
		}
		part = fields[name]
	}
	return string(part)
}

// pathNames returns the fields of a path like "$.detail.eventName".
func pathNames(path string) []string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "$"), ".")
	if path == "" {
		return nil
	}
	return strings.Split(path, ".")
}

func invalid(format string, args ...any) error {
	return wire.Errorf(400, "ValidationException", format, args...)
}

func (s *Service) authorize(ctx context.Context, action, resource string) error {
	if c := wire.CallerFrom(ctx); !c.May("events:"+action, resource) {
		return wire.Errorf(400, "AccessDeniedException", "User: %s is not authorized to perform: events:%s on resource: %s", c.ARN, action, resource)
	}
	return nil
}

func (s *Service) arn(kind, name string) string {
	return "arn:aws:events:" + s.config.Region + ":" + s.config.Account + ":" + kind + "/" + name
}

// checkBus accepts the default bus, by name or ARN: no other is modelled.
func (s *Service) checkBus(name string) error {
	if name == "" || name == "default" || name == s.arn("event-bus", "default") {
		return nil
	}
	return wire.Errorf(400, "ResourceNotFoundException", "Event bus %s does not exist.", name)
}

type bus struct {
	Name string
	ARN  string `json:"Arn"`
}

func (s *Service) describeEventBus(ctx context.Context, in struct{ Name string }) (bus, error) {
	if err := s.checkBus(in.Name); err != nil {
		return bus{}, err
	}
	b := bus{"default", s.arn("event-bus", "default")}
	return b, s.authorize(ctx, "DescribeEventBus", b.ARN)
}

type busesOutput struct{ EventBuses []bus }

func (s *Service) listEventBuses(ctx context.Context, _ struct{}) (busesOutput, error) {
	return busesOutput{[]bus{{"default", s.arn("event-bus", "default")}}}, s.authorize(ctx, "ListEventBuses", "*")
}

type putEventsInput struct {
	Entries []eventEntry
}

type eventEntry struct {
	EventBusName string
	Source       string
	DetailType   string
	Detail       string
	Resources    []string
	Time         *float64 // seconds since 1970
}

type putEventsOutput struct {
	Entries          []eventResult
	FailedEntryCount int
}

type eventResult struct {
	EventID      string `json:"EventId,omitempty"`
	ErrorCode    string `json:",omitempty"`
	ErrorMessage string `json:",omitempty"`
}

func (s *Service) putEvents(ctx context.Context, in putEventsInput) (out putEventsOutput, _ error) {
	if err := s.authorize(ctx, "PutEvents", s.arn("event-bus", "default")); err != nil {
		return out, err
	}
	if len(in.Entries) < 1 || len(in.Entries) > 10 {
		return out, invalid("1 validation error detected: Value at 'entries' failed to satisfy constraint: Member must have length between 1 and 10")
	}
	size := 0
	for _, e := range in.Entries {
		size += len(e.Source) + len(e.DetailType) + len(e.Detail)
		if e.Time != nil {
			size += 14
		}
		for _, r := range e.Resources {
			size += len(r)
		}
	}
	if size > maxPutEventsBytes {
		return out, invalid("Total size of the entries in the request is over the limit.")
	}
	for _, e := range in.Entries {
		if result, ok := s.refuse(e); ok {
			out.Entries = append(out.Entries, result)
			out.FailedEntryCount++
			continue
		}
		at := time.Now()
		if e.Time != nil {
			at = time.UnixMilli(int64(*e.Time * 1000))
		}
		id := wire.NewUUID()
		s.Publish(s.envelope(id, e.Source, e.DetailType, at, e.Resources, json.RawMessage(e.Detail)))
		out.Entries = append(out.Entries, eventResult{EventID: id})
	}
	return out, nil
}

// refuse returns the failure of an entry that PutEvents does not take.
func (s *Service) refuse(e eventEntry) (eventResult, bool) {
	for _, required := range []struct{ name, value string }{{"Source", e.Source}, {"DetailType", e.DetailType}, {"Detail", e.Detail}} {
		if required.value == "" {
			return eventResult{ErrorCode: "InvalidArgument", ErrorMessage: fmt.Sprintf("Parameter %s is not valid. Reason: %[1]s is a required argument.", required.name)}, true
		}
	}
	var detail map[string]json.RawMessage
	switch {
	case json.Unmarshal([]byte(e.Detail), &detail) != nil || detail == nil:
		return eventResult{ErrorCode: "MalformedDetail", ErrorMessage: "Detail is malformed."}, true
	case strings.HasPrefix(e.Source, "aws."):
		return eventResult{ErrorCode: "NotAuthorizedForSourceException", ErrorMessage: "Not authorized for the source."}, true
	case s.checkBus(e.EventBusName) != nil:
		// AWS accepts an event for a bus that does not exist and drops it; a
		// client that misnamed its bus is better told.
		return eventResult{ErrorCode: "InvalidArgument", ErrorMessage: "EventBus " + strconv.Quote(e.EventBusName) + " does not exist."}, true
	}
	return eventResult{}, false
}

// envelope is an event as EventBridge delivers it.
func (s *Service) envelope(id, source, detailType string, at time.Time, resources []string, detail json.RawMessage) []byte {
	if resources == nil {
		resources = []string{}
	}
	event, _ := json.Marshal(struct { // strings, and a detail that was checked, always encode
		Version    string          `json:"version"`
		ID         string          `json:"id"`
		DetailType string          `json:"detail-type"`
		Source     string          `json:"source"`
		Account    string          `json:"account"`
		Time       string          `json:"time"`
		Region     string          `json:"region"`
		Resources  []string        `json:"resources"`
		Detail     json.RawMessage `json:"detail"`
	}{"0", id, detailType, source, s.config.Account, at.UTC().Format("2006-01-02T15:04:05Z"), s.config.Region, resources, detail})
	return event
}

type testPatternInput struct {
	EventPattern, Event string
}

type testPatternOutput struct{ Result bool }

func (s *Service) testEventPattern(ctx context.Context, in testPatternInput) (testPatternOutput, error) {
	if err := s.authorize(ctx, "TestEventPattern", "*"); err != nil {
		return testPatternOutput{}, err
	}
	p, err := parsePattern(in.EventPattern)
	if err != nil {
		return testPatternOutput{}, err
	}
	var event map[string]json.RawMessage
	if err := json.Unmarshal([]byte(in.Event), &event); err != nil {
		return testPatternOutput{}, invalid("Parameter Event is not valid.")
	}
	for _, name := range []string{"id", "account", "source", "time", "region", "resources", "detail-type"} {
		if event[name] == nil {
			return testPatternOutput{}, invalid("Parameter Event is not valid. Reason: %s is missing.", name)
		}
	}
	value, err := pattern.Decode([]byte(in.Event))
	if err != nil {
		return testPatternOutput{}, invalid("Parameter Event is not valid.")
	}
	return testPatternOutput{p.Match(value)}, nil
}

func parsePattern(text string) (*pattern.Pattern, error) {
	p, err := pattern.Parse(text)
	if err != nil {
		return nil, wire.Errorf(400, "InvalidEventPatternException", "Event pattern is not valid. Reason: %v", err)
	}
	return p, nil
}
