// Package guard judges whether the guard sees: whether what happens to keys reaches the
// events queue, whether the worker takes it from there, and whether its alerts reach
// people.
//
// Facts are read once and handed to [Judge], which is pure. Each [Check] judges some of
// them. Where a fact could not be read, the check was not made, and its Result says why:
// nothing is fine that was not looked at.
package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
)

// Known is a fact, or why it is not known.
type Known[T any] struct {
	Value T
	// Err is why it could not be read, nil where it was.
	Err error
}

// Facts are what the checks go by.
type Facts struct {
	// At is when they were read.
	At time.Time
	// Account and Region are where the keys are.
	Account, Region string
	// QueueARN is the events queue's.
	QueueARN string
	// Streams are what has to reach it.
	Streams []Stream
	// RuleNames are patterns of the names of the rules that are ours.
	RuleNames []string

	// Rules are the rules that are ours by their name, or that have the queue as a target.
	Rules Known[[]Rule]
	// Policy is the queue's, "" for none.
	Policy Known[string]
	Trails Known[[]Trail]
	// Topics are those that alerts go to, Queues those that the fleet works on.
	Topics []Topic
	Queues []Queue
	// DeadLetters are the dead-letter queues of the rules' targets.
	DeadLetters []DeadLetters
	// Own is what of the set-up is encrypted under a customer managed key.
	Own Known[[]finding.Finding]
	// Ticks is when the schedule asked for sweeps, Canary whether events of calls of our own
	// come back.
	Ticks  Known[Ticks]
	Canary Known[Canary]
	// Role names the role or user that cmkeeper runs as, Lacks what it cannot do.
	Role  string
	Lacks Known[[]Lack]
}

// Rule is a rule of EventBridge's default bus.
type Rule struct {
	Name, State string
	// Pattern is its event pattern, Schedule its schedule expression; "" for none.
	Pattern, Schedule string
	// Target is the events queue as one of its targets, nil where that is none.
	Target *Target
}

// Target is a queue as the target of a rule.
type Target struct {
	// DeadLetters is the ARN of its dead-letter queue, "" for none.
	DeadLetters string
	// Changed says that the queue gets something else than the event.
	Changed bool
	// Role is what EventBridge sends as; "" for itself.
	Role string
}

// The states of a rule in which it passes events.
const (
	ruleEnabled      = "ENABLED"
	ruleEnabledReads = "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS"
)

// Trail is a trail of CloudTrail's that covers the Region.
type Trail struct {
	// Name is its name, ARN its ARN, and Key the KMS key that encrypts its log files, "" for
	// none.
	Name, ARN, Key string
	Logging        bool
	Selectors      events.EventSelectors
}

// Topic is an SNS topic, and how many have confirmed their subscription.
type Topic struct {
	ARN       string
	Confirmed Known[int]
}

// Queue is a queue that the fleet works on.
type Queue struct {
	// Name names it where it cannot be read, too.
	Name string
	// Read is how it was read; DeadLetters is what its dead-letter queue holds then.
	Read        Known[struct{}]
	DeadLetters DeadLetters
}

// DeadLetters is a dead-letter queue, and about how many messages are in it.
type DeadLetters struct {
	// Name and URL are the queue's, For is whose messages it takes.
	Name, URL, For string
	Messages       Known[int]
}

// Ticks is when the schedule asked for sweeps.
type Ticks struct {
	// Interval is how often it has to.
	Interval time.Duration
	// Last is when it last did, the zero time for never.
	Last time.Time
	// Since is since when a worker has listened.
	Since time.Time
}

// Canary is what became of the calls of ours whose events have to come back.
type Canary struct {
	// Key is the ARN of the key that they are made on, "" where none are made.
	Key string
	// Lost is how many in a row did not come back within Patience; so many are Grave.
	Lost, Grave int
	Patience    time.Duration
	// Refused is why none is made, "" where one is.
	Refused string
}

// Problem is a condition that keeps the guard from seeing or telling. It lasts until a
// later judgement does not have it.
type Problem struct {
	// Name is the condition's: the same as long as it lasts.
	Name     string
	Severity finding.Severity
	// Title is one line, Summary and Risk are sentences.
	Title, Summary, Risk string
	// Next is what to do, in order, as alerts have it.
	Next []string
	// Details say what exactly is wrong, and Findings judge it; either may be empty.
	Details  []string
	Findings []finding.Finding
	// Choice: it may be intended, so that nobody is reminded of it.
	Choice bool
	// Patient: it may be over soon by itself, so that it is told if the next sweep sees it.
	Patient bool
}

// Result is what came of a check.
type Result struct {
	Check Check
	// Unread is why it was not made, or not in full; nil where it was.
	Unread error
	// Problems are those that it found.
	Problems []Problem
}

// Check is one question about what the guard needs.
type Check struct {
	// Name is the beginning of the names of its problems.
	Name string
	// About says in words what is checked, Needs the IAM actions that this takes.
	About, Needs string
	judge        func(Facts) ([]Problem, error)
}

// Checks are all checks, in the order in which what happens reaches people.
func Checks() []Check {
	return []Check{
		{"trail", "A trail logs the management events of KMS", "cloudtrail:DescribeTrails, GetTrailStatus, GetEventSelectors", judgeTrails},
		{"rules", "EventBridge rules pass the events to the events queue", "events:ListRules, ListRuleNamesByTarget, ListTargetsByRule", judgeRules},
		{"queue-policy", "The policy of the events queue lets EventBridge send", "sqs:GetQueueAttributes", judgePolicy},
		{"schedule", "The schedule asks for sweeps", "none", judgeTicks},
		{"canary", "Events of calls of cmkeeper's own come back", "kms:UpdateKeyDescription on the canary key", judgeCanary},
		{"dead-letters", "The dead-letter queues are empty", "sqs:GetQueueUrl, GetQueueAttributes on them", judgeDeadLetters},
		{"own-keys", "Nothing that cmkeeper needs is encrypted under a key that it guards", "sqs:GetQueueAttributes, sns:GetTopicAttributes, s3:GetEncryptionConfiguration", judgeOwn},
		{"role", "The role can do what the modes need", "kms:GetKeyPolicy", judgeRole},
		{"topic", "Somebody is subscribed to the alerts", "sns:GetTopicAttributes", judgeTopics},
	}
}

// Judge makes all checks.
func Judge(f Facts) []Result {
	var all []Result
	for _, c := range Checks() {
		r := Result{Check: c}
		r.Problems, r.Unread = c.judge(f)
		all = append(all, r)
	}
	return all
}

// Unread is the problem that checks were not made, with the reason of each; ok is false
// where all were.
func Unread(results []Result) (p Problem, ok bool) {
	var names []string
	lasting := true
	for _, r := range results {
		if r.Unread == nil {
			continue
		}
		names = append(names, r.Check.Name)
		lasting = lasting && denied(r.Unread)
		p.Details = append(p.Details, fmt.Sprintf("%s: not looked at: %v", r.Check.About, r.Unread))
		p.Next = append(p.Next, fmt.Sprintf("%s needs %s.", r.Check.Name, r.Check.Needs))
	}
	p.Name, p.Severity, p.Choice, p.Patient = "unread/"+strings.Join(names, ","), finding.Low, true, !lasting
	p.Title = fmt.Sprintf("cmkeeper cannot check %d of the %d things that it needs to see", len(names), len(results))
	p.Summary = "These were not looked at, so that nothing is known of them; the details have the reasons."
	p.Risk = "If one of them is broken, cmkeeper sees less than it seems to, and says nothing."
	p.Next = append([]string{"Where AWS denied it, grant the role the actions (docs/operations.md, Permissions):"}, p.Next...)
	return p, len(names) > 0
}

// denied reports whether every error in err says that the role may not read something, which
// does not pass by itself.
func denied(err error) bool {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return !slices.ContainsFunc(joined.Unwrap(), func(err error) bool { return !denied(err) })
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return strings.Contains(api.ErrorCode(), "AccessDenied") || strings.Contains(api.ErrorCode(), "AuthorizationError")
	}
	return false
}

// missing reports whether an error says that something is not there, which is a problem;
// any other leaves open how things are.
func missing(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	code := api.ErrorCode()
	return strings.Contains(code, "NonExistent") || strings.Contains(code, "DoesNotExist") || strings.Contains(code, "NotFound")
}

// last is what follows the last separator of a name, the whole where there is none.
func last(name, separator string) string { return name[strings.LastIndex(name, separator)+1:] }
