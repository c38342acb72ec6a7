// Package cloudtrail is AWS CloudTrail of one account in one Region: trails with
// their event selectors, and the look-up of the events that localaws recorded.
//
// A trail is kept and writes nothing: no log file comes of it, and its bucket,
// topic and key are not looked at. Insights, event data stores and channels are
// not modelled.
package cloudtrail

import (
	"context"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Config says where a Service is and who records for it.
type Config struct {
	Account, Region string
	// Trail is where the records are.
	Trail *trail.Recorder
}

// Service is CloudTrail's endpoint: an http.Handler that expects
// wire.WithRequest's values in the request's context.
type Service struct {
	config     Config
	operations map[string]wire.JSONOperation

	mu     sync.RWMutex
	trails map[string]*loggedTrail // by name

	quota quota
}

// loggedTrail is a trail; the service's lock guards it.
type loggedTrail struct {
	trailSettings
	selectors        selectors
	custom           bool // the selectors are not the first ones
	validates        bool // its log files
	logging          bool
	started, stopped time.Time
}

// New returns a Service without trails.
func New(c Config) *Service {
	s := &Service{config: c, trails: map[string]*loggedTrail{}}
	s.operations = map[string]wire.JSONOperation{
		"CreateTrail":       changes(s, "CreateTrail", s.createTrail),
		"DeleteTrail":       changes(s, "DeleteTrail", s.deleteTrail),
		"DescribeTrails":    wire.JSON(s.describeTrails),
		"GetEventSelectors": wire.JSON(s.getEventSelectors),
		"GetTrailStatus":    wire.JSON(s.getTrailStatus),
		"LookupEvents":      wire.JSON(s.lookupEvents),
		"PutEventSelectors": changes(s, "PutEventSelectors", s.putEventSelectors),
		"StartLogging":      changes(s, "StartLogging", s.startLogging),
		"StopLogging":       changes(s, "StopLogging", s.stopLogging),
		"UpdateTrail":       changes(s, "UpdateTrail", s.updateTrail),
	}
	return s
}

// changes makes an operation whose calls are recorded.
func changes[In, Out any](s *Service, name string, f func(ctx context.Context, in In) (Out, error)) wire.JSONOperation {
	return wire.JSON(trail.Recorded(s.config.Trail, "cloudtrail", name, f))
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeJSON(w, r, s.operations)
}

// Logs reports whether a trail logs the management events of the service that
// only read, or the others. What concerns the trails themselves is logged always:
// the call that ends the logging is the last that is logged.
func (s *Service) Logs(source string, readOnly bool) bool {
	if source == "cloudtrail.amazonaws.com" {
		return true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.trails {
		if t.logging && t.selectors.include(source, readOnly) {
			return true
		}
	}
	return false
}

// trailSettings is what CreateTrail and UpdateTrail set.
type trailSettings struct {
	Name                       string
	S3BucketName               string
	S3KeyPrefix                string `json:",omitempty"`
	SnsTopicName               string `json:",omitempty"`
	CloudWatchLogsLogGroupARN  string `json:"CloudWatchLogsLogGroupArn,omitempty"`
	CloudWatchLogsRoleARN      string `json:"CloudWatchLogsRoleArn,omitempty"`
	KmsKeyID                   string `json:"KmsKeyId,omitempty"`
	IncludeGlobalServiceEvents *bool
	IsMultiRegionTrail         *bool
	IsOrganizationTrail        *bool
}

type trailInput struct {
	trailSettings
	EnableLogFileValidation *bool
}

type trailOutput struct {
	trailSettings
	TrailARN                 string
	LogFileValidationEnabled bool
}

func (s *Service) arn(name string) string {
	return "arn:aws:cloudtrail:" + s.config.Region + ":" + s.config.Account + ":trail/" + name
}

func (s *Service) authorize(ctx context.Context, action, resource string) error {
	if c := wire.CallerFrom(ctx); !c.May("cloudtrail:"+action, resource) {
		return wire.Errorf(400, "AccessDeniedException", "User: %s is not authorized to perform: cloudtrail:%s on resource: %s", c.ARN, action, resource)
	}
	return nil
}

// change calls f under the lock with the trail of the name or ARN, if the caller
// may do the action on it.
func (s *Service) change(ctx context.Context, action, ref string, f func(t *loggedTrail) error) error {
	name := strings.TrimPrefix(ref, s.arn(""))
	if strings.HasPrefix(name, "arn:") {
		return wire.Errorf(400, "CloudTrailARNInvalidException", "Invalid trail ARN %s", ref)
	}
	if err := s.authorize(ctx, action, s.arn(name)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trails[name]
	if t == nil {
		return wire.Errorf(400, "TrailNotFoundException", "Unknown trail: %s for the user: %s", ref, wire.CallerFrom(ctx).AccountID)
	}
	return f(t)
}

const maxTrails = 5

// trailName matches a trail's name but for its greatest length: an expression that
// counts is as large as what it counts to.
var trailName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{2,}$`)
})

const maxTrailName = 128

// createTrail makes a trail, which logs nothing until it is told to start.
func (s *Service) createTrail(ctx context.Context, in trailInput) (out trailOutput, _ error) {
	if !trailName().MatchString(in.Name) || len(in.Name) > maxTrailName {
		return out, wire.Errorf(400, "InvalidTrailNameException", "Trail name or ARN can only contain uppercase letters, lowercase letters, numbers, periods, hyphens and underscores, and has from 3 to 128 of them.")
	}
	if in.S3BucketName == "" {
		return out, wire.Errorf(400, "InvalidS3BucketNameException", "Bucket name cannot be blank!")
	}
	if err := s.authorize(ctx, "CreateTrail", s.arn(in.Name)); err != nil {
		return out, err
	}
	t := &loggedTrail{trailSettings: in.trailSettings, selectors: firstSelectors()}
	for _, flag := range []struct {
		member **bool
		value  bool
	}{{&t.IncludeGlobalServiceEvents, true}, {&t.IsMultiRegionTrail, false}, {&t.IsOrganizationTrail, false}} {
		if *flag.member == nil {
			*flag.member = &flag.value
		}
	}
	t.validates = in.EnableLogFileValidation != nil && *in.EnableLogFileValidation
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trails[in.Name] != nil {
		return out, wire.Errorf(400, "TrailAlreadyExistsException", "Trail %s already exists for customer: %s", in.Name, s.config.Account)
	}
	if len(s.trails) == maxTrails {
		return out, wire.Errorf(400, "MaximumNumberOfTrailsExceededException", "User: %s already has %d trails in %s.", s.config.Account, maxTrails, s.config.Region)
	}
	s.trails[in.Name] = t
	return s.output(t), nil
}

func (s *Service) output(t *loggedTrail) trailOutput {
	return trailOutput{trailSettings: t.trailSettings, TrailARN: s.arn(t.Name), LogFileValidationEnabled: t.validates}
}

// updateTrail changes what is given.
func (s *Service) updateTrail(ctx context.Context, in trailInput) (out trailOutput, _ error) {
	err := s.change(ctx, "UpdateTrail", in.Name, func(t *loggedTrail) error {
		for _, text := range []struct {
			member *string
			value  string
		}{
			{&t.S3BucketName, in.S3BucketName}, {&t.S3KeyPrefix, in.S3KeyPrefix}, {&t.SnsTopicName, in.SnsTopicName}, {&t.KmsKeyID, in.KmsKeyID},
			{&t.CloudWatchLogsLogGroupARN, in.CloudWatchLogsLogGroupARN}, {&t.CloudWatchLogsRoleARN, in.CloudWatchLogsRoleARN},
		} {
			if text.value != "" {
				*text.member = text.value
			}
		}
		for _, flag := range []struct{ member, value **bool }{
			{&t.IncludeGlobalServiceEvents, &in.IncludeGlobalServiceEvents}, {&t.IsMultiRegionTrail, &in.IsMultiRegionTrail}, {&t.IsOrganizationTrail, &in.IsOrganizationTrail},
		} {
			if *flag.value != nil {
				*flag.member = *flag.value
			}
		}
		if in.EnableLogFileValidation != nil {
			t.validates = *in.EnableLogFileValidation
		}
		out = s.output(t)
		return nil
	})
	return out, err
}

// noAnswer is the answer of operations whose answer is an empty object.
type noAnswer struct{}

type nameInput struct{ Name string }

func (s *Service) deleteTrail(ctx context.Context, in nameInput) (noAnswer, error) {
	return noAnswer{}, s.change(ctx, "DeleteTrail", in.Name, func(t *loggedTrail) error {
		delete(s.trails, t.Name)
		return nil
	})
}

func (s *Service) startLogging(ctx context.Context, in nameInput) (noAnswer, error) {
	return noAnswer{}, s.change(ctx, "StartLogging", in.Name, func(t *loggedTrail) error {
		t.logging, t.started = true, time.Now()
		return nil
	})
}

func (s *Service) stopLogging(ctx context.Context, in nameInput) (noAnswer, error) {
	return noAnswer{}, s.change(ctx, "StopLogging", in.Name, func(t *loggedTrail) error {
		t.logging, t.stopped = false, time.Now()
		return nil
	})
}

type statusOutput struct {
	IsLogging          bool
	StartLoggingTime   *wire.Timestamp `json:",omitempty"`
	StopLoggingTime    *wire.Timestamp `json:",omitempty"`
	TimeLoggingStarted string          `json:",omitempty"`
	TimeLoggingStopped string          `json:",omitempty"`
}

func (s *Service) getTrailStatus(ctx context.Context, in nameInput) (out statusOutput, _ error) {
	err := s.change(ctx, "GetTrailStatus", in.Name, func(t *loggedTrail) error {
		out.IsLogging = t.logging
		if !t.started.IsZero() {
			out.StartLoggingTime, out.TimeLoggingStarted = new(wire.Timestamp(t.started)), trail.Time(t.started)
		}
		if !t.stopped.IsZero() {
			out.StopLoggingTime, out.TimeLoggingStopped = new(wire.Timestamp(t.stopped)), trail.Time(t.stopped)
		}
		return nil
	})
	return out, err
}

type describeInput struct{ TrailNameList []string }

type describeOutput struct {
	TrailList []describedTrail `json:"trailList"`
}

type describedTrail struct {
	trailOutput
	HomeRegion              string
	HasCustomEventSelectors bool
	HasInsightSelectors     bool
}

// describeTrails lists the trails that are asked for, or all; one that is not
// there is left out.
func (s *Service) describeTrails(ctx context.Context, in describeInput) (describeOutput, error) {
	out := describeOutput{TrailList: []describedTrail{}}
	if err := s.authorize(ctx, "DescribeTrails", "*"); err != nil {
		return out, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(s.trails)) {
		if len(in.TrailNameList) == 0 || slices.Contains(in.TrailNameList, name) || slices.Contains(in.TrailNameList, s.arn(name)) {
			t := s.trails[name]
			out.TrailList = append(out.TrailList, describedTrail{trailOutput: s.output(t), HomeRegion: s.config.Region, HasCustomEventSelectors: t.custom})
		}
	}
	return out, nil
}
