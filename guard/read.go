package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// Caller calls operations of one service's API: in is encoded as JSON, and the answer
// decoded into out.
type Caller interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Reader reads what lies between a call and the events queue.
type Reader struct {
	// Events is EventBridge, Trails CloudTrail.
	Events, Trails Caller
}

// readTimeout bounds how long a fact is waited for.
const readTimeout = 30 * time.Second

// maxPages bounds a list. More rules than that on one bus need a raised quota.
const maxPages = 50

// Rules reads the rules of the default bus whose names match one of the patterns, and those
// that have the queue as a target.
func (r Reader) Rules(ctx context.Context, queueARN string, names []string) Known[[]Rule] {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rules, err := r.rules(ctx, queueARN, names)
	return Known[[]Rule]{rules, err}
}

func (r Reader) rules(ctx context.Context, queueARN string, names []string) ([]Rule, error) {
	var feeding []string
	if err := r.pages(ctx, "ListRuleNamesByTarget", map[string]any{"TargetArn": queueARN}, func(p page) { feeding = append(feeding, p.RuleNames...) }); err != nil {
		return nil, err
	}
	var rules []Rule
	if err := r.pages(ctx, "ListRules", map[string]any{}, func(p page) {
		for _, l := range p.Rules {
			named := slices.ContainsFunc(names, func(p string) bool { return judgement.Matches(p, l.Name) })
			if named || slices.Contains(feeding, l.Name) {
				rules = append(rules, Rule{Name: l.Name, State: l.State, Pattern: l.EventPattern, Schedule: l.ScheduleExpression})
			}
		}
	}); err != nil {
		return nil, err
	}
	for i, rule := range rules {
		if !slices.Contains(feeding, rule.Name) {
			continue
		}
		var listed struct {
			Targets []struct {
				Arn, RoleArn, Input, InputPath string
				InputTransformer               *struct{}
				DeadLetterConfig               struct{ Arn string }
			}
		}
		if err := r.Events.Call(ctx, "ListTargetsByRule", map[string]any{"Rule": rule.Name}, &listed); err != nil {
			return nil, fmt.Errorf("read the targets of rule %s: %w", rule.Name, err)
		}
		for _, t := range listed.Targets {
			if t.Arn == queueARN && (rules[i].Target == nil || rules[i].Target.Changed) { // one that gets the event suffices
				rules[i].Target = &Target{
					DeadLetters: t.DeadLetterConfig.Arn, Role: t.RoleArn,
					Changed: t.Input != "" || t.InputPath != "" && t.InputPath != "$" || t.InputTransformer != nil,
				}
			}
		}
	}
	return rules, nil
}

// page is a page of ListRules or of ListRuleNamesByTarget.
type page struct {
	RuleNames []string
	Rules     []struct{ Name, State, EventPattern, ScheduleExpression string }
	NextToken string
}

// pages reads all pages of a list.
func (r Reader) pages(ctx context.Context, operation string, in map[string]any, take func(page)) error {
	for range maxPages {
		var p page
		if err := r.Events.Call(ctx, operation, in, &p); err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		take(p)
		if p.NextToken == "" {
			return nil
		}
		in["NextToken"] = p.NextToken
	}
	return errors.New("list rules: there are too many")
}

// ReadTrails reads the trails that cover the Region: its own, those of other Regions that
// cover all, and the organization's.
func (r Reader) ReadTrails(ctx context.Context) Known[[]Trail] {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	trails, err := r.trails(ctx)
	return Known[[]Trail]{trails, err}
}

// ListTrails reads which trails cover the Region, as ReadTrails does, with no more than one
// call: without whether they log, and what.
func (r Reader) ListTrails(ctx context.Context) ([]Trail, error) {
	var listed struct {
		TrailList []struct {
			Name     string
			TrailARN string
			KmsKeyID string `json:"KmsKeyId"`
		} `json:"trailList"`
	}
	if err := r.Trails.Call(ctx, "DescribeTrails", struct{}{}, &listed); err != nil {
		return nil, fmt.Errorf("list trails: %w", err)
	}
	trails := make([]Trail, len(listed.TrailList))
	for i, l := range listed.TrailList {
		trails[i] = Trail{Name: l.Name, ARN: l.TrailARN, Key: l.KmsKeyID}
	}
	return trails, nil
}

func (r Reader) trails(ctx context.Context) ([]Trail, error) {
	listed, err := r.ListTrails(ctx)
	if err != nil {
		return nil, err
	}
	var trails []Trail
	var unread error
	for _, t := range listed {
		// By ARN: the only name of a trail of another Region, or of the organization.
		var status struct{ IsLogging bool }
		err := r.Trails.Call(ctx, "GetTrailStatus", map[string]string{"Name": t.ARN}, &status)
		if err == nil {
			t.Logging = status.IsLogging
			t.Selectors, err = r.selectors(ctx, t.ARN)
		}
		if err != nil { // the organization's trail need not be readable here
			unread = errors.Join(unread, fmt.Errorf("read trail %s: %w", t.Name, err))
			continue
		}
		trails = append(trails, t)
	}
	if slices.ContainsFunc(trails, func(t Trail) bool { return t.Logging && Covers(t.Selectors) == CoversAll }) {
		return trails, nil // one suffices, whatever the others do
	}
	return trails, unread
}

// selectors reads the event selectors of a trail.
func (r Reader) selectors(ctx context.Context, trailARN string) (events.EventSelectors, error) {
	var out struct {
		EventSelectors []struct {
			ReadWriteType                 string
			IncludeManagementEvents       *bool
			ExcludeManagementEventSources []string
		}
		AdvancedEventSelectors []struct {
			FieldSelectors []struct {
				Field                                                               string
				Equals, NotEquals, StartsWith, NotStartsWith, EndsWith, NotEndsWith []string
			}
		}
	}
	if err := r.Trails.Call(ctx, "GetEventSelectors", map[string]string{"TrailName": trailARN}, &out); err != nil {
		return events.EventSelectors{}, err
	}
	s := events.EventSelectors{Trail: trailARN}
	for _, b := range out.EventSelectors {
		s.Basic = append(s.Basic, events.EventSelector{
			ReadWriteType: b.ReadWriteType, ExcludedSources: b.ExcludeManagementEventSources,
			Management: b.IncludeManagementEvents == nil || *b.IncludeManagementEvents, // its default
		})
	}
	for _, a := range out.AdvancedEventSelectors {
		var selector events.AdvancedSelector
		for _, f := range a.FieldSelectors {
			for _, o := range []events.FieldSelector{
				{Operator: "equals", Values: f.Equals}, {Operator: "notEquals", Values: f.NotEquals},
				{Operator: "startsWith", Values: f.StartsWith}, {Operator: "notStartsWith", Values: f.NotStartsWith},
				{Operator: "endsWith", Values: f.EndsWith}, {Operator: "notEndsWith", Values: f.NotEndsWith},
			} {
				if len(o.Values) > 0 {
					o.Field = f.Field
					selector = append(selector, o)
				}
			}
		}
		s.Advanced = append(s.Advanced, selector)
	}
	return s, nil
}
