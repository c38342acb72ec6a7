package eventbridge

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

type putRuleInput struct {
	Name, EventBusName, Description string
	EventPattern, State             string
	ScheduleExpression              string
	RoleARN                         string `json:"RoleArn"`
}

type putRuleOutput struct {
	RuleARN string `json:"RuleArn"`
}

// putRule makes a rule or replaces all of one but its targets.
func (s *Service) putRule(ctx context.Context, in putRuleInput) (putRuleOutput, error) {
	arn := s.arn("rule", in.Name)
	if err := s.authorize(ctx, "PutRule", arn); err != nil {
		return putRuleOutput{}, err
	}
	if err := s.checkBus(in.EventBusName); err != nil {
		return putRuleOutput{}, err
	}
	r, err := newRule(in)
	if err != nil {
		return putRuleOutput{}, err
	}
	r.arn = arn
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.rules[in.Name]; old != nil {
		old.stop()
		r.targets = old.targets
	}
	s.rules[in.Name] = r
	s.start(r)
	return putRuleOutput{arn}, nil
}

// newRule checks what PutRule is given.
func newRule(in putRuleInput) (*rule, error) {
	if in.Name == "" || len(in.Name) > 64 || strings.ContainsFunc(in.Name, func(r rune) bool {
		return r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return nil, invalid("1 validation error detected: Value '%s' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\.\\-_A-Za-z0-9]+ and have a length of at most 64", in.Name)
	}
	r := &rule{name: in.Name, description: in.Description, roleARN: in.RoleARN, patternText: in.EventPattern, schedule: in.ScheduleExpression, state: in.State}
	if r.state == "" {
		r.state = enabled
	}
	if !slices.Contains([]string{enabled, enabledWithReads, disabled}, r.state) {
		return nil, invalid("Value '%s' at 'state' is not a rule state.", r.state)
	}
	if in.EventPattern == "" && in.ScheduleExpression == "" {
		return nil, invalid("Parameter(s) EventPattern or ScheduleExpression must be specified.")
	}
	var err error
	if in.EventPattern != "" {
		if r.pattern, err = parsePattern(in.EventPattern); err != nil {
			return nil, err
		}
	}
	if in.ScheduleExpression != "" {
		r.every, err = parseRate(in.ScheduleExpression)
	}
	return r, err
}

// parseRate parses "rate(1 minute)", "rate(5 hours)" and the like. Cron
// expressions are not modelled.
func parseRate(expression string) (time.Duration, error) {
	body, ok := strings.CutPrefix(expression, "rate(")
	body, closed := strings.CutSuffix(body, ")")
	count, unit, _ := strings.Cut(body, " ")
	n, err := strconv.Atoi(count)
	if !ok || !closed || err != nil || n < 1 || n > 1_000_000 {
		return 0, invalid("Parameter ScheduleExpression is not valid. localaws models rate expressions only.")
	}
	length := map[string]time.Duration{"minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour}[strings.TrimSuffix(unit, "s")]
	if length == 0 || strings.HasSuffix(unit, "s") == (n == 1) {
		return 0, invalid("Parameter ScheduleExpression is not valid.")
	}
	return time.Duration(n) * length, nil
}

// start runs an enabled rule's schedule: from now, as AWS counts a rate.
func (s *Service) start(r *rule) {
	if r.every == 0 || r.state == disabled || s.closed {
		return
	}
	r.timer = time.AfterFunc(r.every, func() { s.fire(r) })
}

func (r *rule) stop() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// fire sends the scheduled event of a rule to its targets and sets the timer again.
func (s *Service) fire(r *rule) {
	s.mu.Lock()
	if r.timer == nil { // stopped while the timer went off
		s.mu.Unlock()
		return
	}
	r.timer.Reset(r.every)
	due := r.deliveries(s.envelope(wire.NewUUID(), "aws.events", "Scheduled Event", time.Now(), []string{r.arn}, json.RawMessage("{}")))
	s.firing.Add(1)
	s.mu.Unlock()
	defer s.firing.Done()
	s.deliver(due)
}

type ruleInput struct {
	Name, EventBusName string
}

func (s *Service) deleteRule(ctx context.Context, in ruleInput) error {
	if err := s.authorize(ctx, "DeleteRule", s.arn("rule", in.Name)); err != nil {
		return err
	}
	if err := s.checkBus(in.EventBusName); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rules[in.Name]
	if r == nil {
		return nil
	}
	if len(r.targets) > 0 {
		return invalid("Rule can't be deleted since it has targets.")
	}
	r.stop()
	delete(s.rules, in.Name)
	return nil
}

// change calls f with the rule, under the lock.
func (s *Service) change(ctx context.Context, action, bus, name string, f func(r *rule) error) error {
	if err := s.authorize(ctx, action, s.arn("rule", name)); err != nil {
		return err
	}
	if err := s.checkBus(bus); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rules[name]
	if r == nil {
		return wire.Errorf(400, "ResourceNotFoundException", "Rule %s does not exist on EventBus default.", name)
	}
	return f(r)
}

func (s *Service) enableRule(ctx context.Context, in ruleInput) error {
	return s.change(ctx, "EnableRule", in.EventBusName, in.Name, func(r *rule) error {
		if r.state == disabled {
			r.state = enabled
			s.start(r)
		}
		return nil
	})
}

func (s *Service) disableRule(ctx context.Context, in ruleInput) error {
	return s.change(ctx, "DisableRule", in.EventBusName, in.Name, func(r *rule) error {
		r.stop()
		r.state = disabled
		return nil
	})
}

type ruleOutput struct {
	Name               string
	ARN                string `json:"Arn"`
	EventBusName       string
	State              string
	Description        string `json:",omitempty"`
	EventPattern       string `json:",omitempty"`
	ScheduleExpression string `json:",omitempty"`
	RoleARN            string `json:"RoleArn,omitempty"`
}

func (r *rule) output() ruleOutput {
	return ruleOutput{
		Name: r.name, ARN: r.arn, EventBusName: "default", State: r.state, Description: r.description,
		EventPattern: r.patternText, ScheduleExpression: r.schedule, RoleARN: r.roleARN,
	}
}

func (s *Service) describeRule(ctx context.Context, in ruleInput) (out ruleOutput, _ error) {
	err := s.change(ctx, "DescribeRule", in.EventBusName, in.Name, func(r *rule) error {
		out = r.output()
		return nil
	})
	return out, err
}

type listRulesInput struct {
	NamePrefix, EventBusName, NextToken string
	Limit                               int
}

type listRulesOutput struct {
	Rules     []ruleOutput
	NextToken string `json:",omitempty"`
}

func (s *Service) listRules(ctx context.Context, in listRulesInput) (out listRulesOutput, _ error) {
	names, next, err := s.ruleNames(ctx, "ListRules", in.EventBusName, in.NextToken, in.Limit, func(r *rule) bool {
		return strings.HasPrefix(r.name, in.NamePrefix)
	})
	if err != nil {
		return out, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out.Rules, out.NextToken = []ruleOutput{}, next
	for _, name := range names {
		if r := s.rules[name]; r != nil {
			out.Rules = append(out.Rules, r.output())
		}
	}
	return out, nil
}

type ruleNamesInput struct {
	TargetARN               string `json:"TargetArn"`
	EventBusName, NextToken string
	Limit                   int
}

type ruleNamesOutput struct {
	RuleNames []string
	NextToken string `json:",omitempty"`
}

func (s *Service) listRuleNamesByTarget(ctx context.Context, in ruleNamesInput) (ruleNamesOutput, error) {
	names, next, err := s.ruleNames(ctx, "ListRuleNamesByTarget", in.EventBusName, in.NextToken, in.Limit, func(r *rule) bool {
		return slices.ContainsFunc(r.targets, func(t target) bool { return t.ARN == in.TargetARN })
	})
	return ruleNamesOutput{names, next}, err
}

// ruleNames returns a page of the names of the rules that are wanted, in order.
func (s *Service) ruleNames(ctx context.Context, action, bus, token string, limit int, wanted func(r *rule) bool) (names []string, next string, err error) {
	if err := s.authorize(ctx, action, "*"); err != nil {
		return nil, "", err
	}
	if err := s.checkBus(bus); err != nil {
		return nil, "", err
	}
	if limit == 0 {
		limit = 100
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	names = []string{}
	for _, name := range slices.Sorted(maps.Keys(s.rules)) {
		if name <= token || !wanted(s.rules[name]) {
			continue
		}
		if len(names) == limit {
			return names, names[limit-1], nil
		}
		names = append(names, name)
	}
	return names, "", nil
}

type putTargetsInput struct {
	Rule, EventBusName string
	Targets            []target
}

type targetFailure struct {
	TargetID     string `json:"TargetId"`
	ErrorCode    string
	ErrorMessage string
}

type targetsOutput struct {
	FailedEntryCount int
	FailedEntries    []targetFailure
}

// putTargets adds targets and replaces those that have the same id.
func (s *Service) putTargets(ctx context.Context, in putTargetsInput) (targetsOutput, error) {
	for _, t := range in.Targets {
		if err := s.checkTarget(t); err != nil {
			return targetsOutput{}, err
		}
	}
	err := s.change(ctx, "PutTargets", in.EventBusName, in.Rule, func(r *rule) error {
		targets := slices.Clone(r.targets)
		for _, t := range in.Targets {
			targets = append(slices.DeleteFunc(targets, func(old target) bool { return old.ID == t.ID }), t)
		}
		if len(targets) > maxTargets {
			return wire.Errorf(400, "LimitExceededException", "The requested resource exceeds the maximum number allowed.")
		}
		r.targets = targets
		return nil
	})
	return targetsOutput{FailedEntries: []targetFailure{}}, err
}

func (s *Service) checkTarget(t target) error {
	queuePrefix := "arn:aws:sqs:" + s.config.Region + ":"
	switch {
	case t.ID == "" || len(t.ID) > 64:
		return invalid("Value '%s' at 'targets.member.id' must have a length between 1 and 64.", t.ID)
	case !strings.HasPrefix(t.ARN, queuePrefix):
		return invalid("Parameter %s is not valid. Reason: localaws delivers to the SQS queues of its Region only.", t.ARN)
	case t.DeadLetterConfig != nil && !strings.HasPrefix(t.DeadLetterConfig.ARN, queuePrefix):
		return invalid("Parameter DeadLetterConfig is not valid. Reason: it takes the ARN of an SQS queue.")
	case len(t.InputTransformer) > 0:
		return invalid("Parameter InputTransformer is not valid. Reason: localaws does not model it.")
	case t.Input != "" && t.InputPath != "":
		return invalid("Only one of Input, InputPath, or InputTransformer must be provided for target %s.", t.ID)
	case t.Input != "" && !json.Valid([]byte(t.Input)):
		return invalid("JSON syntax error in input for target %s.", t.ID)
	case t.InputPath != "" && (!strings.HasPrefix(t.InputPath, "$") || strings.ContainsAny(t.InputPath, "[]*?")):
		return invalid("Invalid InputPath for target %s. localaws models plain field names.", t.ID)
	}
	return nil
}

type removeTargetsInput struct {
	Rule, EventBusName string
	IDs                []string `json:"Ids"`
}

func (s *Service) removeTargets(ctx context.Context, in removeTargetsInput) (out targetsOutput, _ error) {
	out.FailedEntries = []targetFailure{}
	err := s.change(ctx, "RemoveTargets", in.EventBusName, in.Rule, func(r *rule) error {
		for _, id := range in.IDs {
			kept := slices.DeleteFunc(slices.Clone(r.targets), func(t target) bool { return t.ID == id })
			if len(kept) == len(r.targets) {
				out.FailedEntryCount++
				out.FailedEntries = append(out.FailedEntries, targetFailure{id, "ResourceNotFoundException", "Target " + id + " does not exist on rule " + r.name + "."})
			}
			r.targets = kept
		}
		return nil
	})
	return out, err
}

type listTargetsInput struct {
	Rule, EventBusName string
}

type listTargetsOutput struct {
	Targets []target
}

// listTargetsByRule lists all targets at once: a rule has five at most.
func (s *Service) listTargetsByRule(ctx context.Context, in listTargetsInput) (out listTargetsOutput, _ error) {
	err := s.change(ctx, "ListTargetsByRule", in.EventBusName, in.Rule, func(r *rule) error {
		out.Targets = append([]target{}, r.targets...)
		return nil
	})
	return out, err
}
