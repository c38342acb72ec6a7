package cloudtrail

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// selectors is what a trail logs, in one of two forms.
type selectors struct {
	EventSelectors         []eventSelector    `json:",omitempty"`
	AdvancedEventSelectors []advancedSelector `json:",omitempty"`
}

type eventSelector struct {
	ReadWriteType                 string
	IncludeManagementEvents       *bool
	DataResources                 []dataResource
	ExcludeManagementEventSources []string
}

type dataResource struct {
	Type   string
	Values []string
}

type advancedSelector struct {
	Name           string `json:",omitempty"`
	FieldSelectors []fieldSelector
}

type fieldSelector struct {
	Field         string
	Equals        []string `json:",omitempty"`
	NotEquals     []string `json:",omitempty"`
	StartsWith    []string `json:",omitempty"`
	NotStartsWith []string `json:",omitempty"`
	EndsWith      []string `json:",omitempty"`
	NotEndsWith   []string `json:",omitempty"`
}

// firstSelectors are those of a new trail: all management events, no data events.
func firstSelectors() selectors {
	s := selectors{EventSelectors: []eventSelector{{}}}
	_ = s.complete() // the defaults are valid
	return s
}

// complete fills in what was left out, and refuses what makes no selector.
func (s *selectors) complete() error {
	if (len(s.EventSelectors) == 0) == (len(s.AdvancedEventSelectors) == 0) {
		return invalidSelectors("Specify either EventSelectors or AdvancedEventSelectors.")
	}
	for i := range s.EventSelectors {
		e := &s.EventSelectors[i]
		if e.ReadWriteType == "" {
			e.ReadWriteType = "All"
		}
		if !slices.Contains([]string{"All", "ReadOnly", "WriteOnly"}, e.ReadWriteType) {
			return invalidSelectors("%s is not a ReadWriteType.", e.ReadWriteType)
		}
		if e.IncludeManagementEvents == nil {
			e.IncludeManagementEvents = new(true)
		}
		if e.DataResources == nil {
			e.DataResources = []dataResource{}
		}
		if e.ExcludeManagementEventSources == nil {
			e.ExcludeManagementEventSources = []string{}
		}
		for _, source := range e.ExcludeManagementEventSources {
			if source != "kms.amazonaws.com" && source != "rdsdata.amazonaws.com" {
				return invalidSelectors("The events of %s cannot be excluded.", source)
			}
		}
	}
	for _, a := range s.AdvancedEventSelectors {
		if !slices.ContainsFunc(a.FieldSelectors, func(f fieldSelector) bool { return f.Field == "eventCategory" && len(f.Equals) > 0 }) {
			return invalidSelectors("An advanced event selector needs an eventCategory.")
		}
	}
	return nil
}

func invalidSelectors(format string, args ...any) error {
	return wire.Errorf(400, "InvalidEventSelectorsException", format, args...)
}

// include reports whether the selectors let a management event through.
func (s selectors) include(source string, readOnly bool) bool {
	return slices.ContainsFunc(s.EventSelectors, func(e eventSelector) bool {
		return *e.IncludeManagementEvents && !slices.Contains(e.ExcludeManagementEventSources, source) &&
			(e.ReadWriteType == "All" || readOnly == (e.ReadWriteType == "ReadOnly"))
	}) || slices.ContainsFunc(s.AdvancedEventSelectors, func(a advancedSelector) bool {
		return !slices.ContainsFunc(a.FieldSelectors, func(f fieldSelector) bool {
			switch f.Field {
			case "eventCategory":
				return !f.match("Management")
			case "eventSource":
				return !f.match(source)
			case "readOnly":
				return !f.match(strconv.FormatBool(readOnly))
			}
			return true // not modelled: logs nothing rather than too much
		})
	})
}

// match applies the operators of a field to its value: each that is given has to hold.
func (f fieldSelector) match(value string) bool {
	is := func(list []string, test func(value, of string) bool) bool {
		return slices.ContainsFunc(list, func(of string) bool { return test(value, of) })
	}
	equal := func(value, of string) bool { return value == of }
	return (f.Equals == nil || is(f.Equals, equal)) && !is(f.NotEquals, equal) &&
		(f.StartsWith == nil || is(f.StartsWith, strings.HasPrefix)) && !is(f.NotStartsWith, strings.HasPrefix) &&
		(f.EndsWith == nil || is(f.EndsWith, strings.HasSuffix)) && !is(f.NotEndsWith, strings.HasSuffix)
}

type selectorsInput struct {
	TrailName string
	selectors
}

type selectorsOutput struct {
	TrailARN string
	selectors
}

func (s *Service) putEventSelectors(ctx context.Context, in selectorsInput) (out selectorsOutput, _ error) {
	err := s.change(ctx, "PutEventSelectors", in.TrailName, func(t *loggedTrail) error {
		given := in.selectors
		if err := given.complete(); err != nil {
			return err
		}
		t.selectors, t.custom = given, true
		out = selectorsOutput{s.arn(t.Name), given}
		return nil
	})
	return out, err
}

type selectorsOf struct{ TrailName string }

func (s *Service) getEventSelectors(ctx context.Context, in selectorsOf) (out selectorsOutput, _ error) {
	err := s.change(ctx, "GetEventSelectors", in.TrailName, func(t *loggedTrail) error {
		out = selectorsOutput{s.arn(t.Name), t.selectors}
		return nil
	})
	return out, err
}
