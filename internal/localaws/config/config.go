// Package config is AWS Config of one account in one Region, as far as it is asked which
// resources there are: the recorder and the advanced query over what it records.
//
// Nothing is recorded by itself: tests put the configuration items in. Rules, conformance
// packs, aggregators, delivery channels and the history of items are not modelled.
package config

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Config says where a Service is.
type Config struct {
	Account, Region string
}

// Service is AWS Config's endpoint: an http.Handler that expects wire.WithRequest's
// values in the request's context.
type Service struct {
	config     Config
	operations map[string]wire.JSONOperation

	mu       sync.RWMutex
	recorder *Recorder
	items    []Item // by type and id
}

// Recorder is the customer managed configuration recorder of the Region, of which there
// is at most one (AWS Config Developer Guide, "Working with the configuration recorder").
type Recorder struct {
	// Group says which types it records.
	Group RecordingGroup
	// Daily: it records the state of each day, and not each change.
	Daily bool
	// Stopped is when it was stopped; zero while it records.
	Stopped time.Time
	// LastError is the code of the error that it last failed with, if that was the last
	// thing that it did ("AccessDenied").
	LastError string
}

// RecordingGroup is the RecordingGroup of the API.
type RecordingGroup struct {
	AllSupported             bool               `json:"allSupported"`
	ResourceTypes            []string           `json:"resourceTypes"`
	ExclusionByResourceTypes *ResourceTypes     `json:"exclusionByResourceTypes,omitempty"`
	RecordingStrategy        *RecordingStrategy `json:"recordingStrategy,omitempty"`
}

// ResourceTypes is the ExclusionByResourceTypes of the API.
type ResourceTypes struct {
	ResourceTypes []string `json:"resourceTypes"`
}

// RecordingStrategy is the RecordingStrategy of the API.
type RecordingStrategy struct {
	UseOnly string `json:"useOnly"`
}

// All returns the group that records everything.
func All() RecordingGroup {
	return RecordingGroup{AllSupported: true, RecordingStrategy: &RecordingStrategy{"ALL_SUPPORTED_RESOURCE_TYPES"}}
}

// Only returns the group that records these types.
func Only(types ...string) RecordingGroup {
	return RecordingGroup{ResourceTypes: types, RecordingStrategy: &RecordingStrategy{"INCLUSION_BY_RESOURCE_TYPES"}}
}

// AllBut returns the group that records everything but these types.
func AllBut(types ...string) RecordingGroup {
	return RecordingGroup{ExclusionByResourceTypes: &ResourceTypes{types}, RecordingStrategy: &RecordingStrategy{"EXCLUSION_BY_RESOURCE_TYPES"}}
}

func (g RecordingGroup) records(resourceType string) bool {
	strategy := ""
	if g.RecordingStrategy != nil {
		strategy = g.RecordingStrategy.UseOnly
	}
	switch {
	case strategy == "EXCLUSION_BY_RESOURCE_TYPES":
		return g.ExclusionByResourceTypes == nil || !slices.Contains(g.ExclusionByResourceTypes.ResourceTypes, resourceType)
	case g.AllSupported:
		return true
	}
	return slices.Contains(g.ResourceTypes, resourceType)
}

// Item is the current configuration item of a resource.
type Item struct {
	// Type is the resource's type ("AWS::EC2::Volume"), ID its id.
	Type, ID string
	// Name and ARN may be empty, as they are for some types.
	Name, ARN string
	// Captured is when the item was recorded; by default when it is put in.
	Captured time.Time
	Tags     map[string]string
	// Configuration is the resource's configuration, as a value that becomes a JSON
	// object; Supplementary is the supplementary configuration.
	Configuration, Supplementary any
}

// New returns a Service without a recorder and without items.
func New(c Config) *Service {
	s := &Service{config: c}
	s.operations = map[string]wire.JSONOperation{
		"DescribeConfigurationRecorders":      wire.JSON(s.describeRecorders),
		"DescribeConfigurationRecorderStatus": wire.JSON(s.describeStatus),
		"SelectResourceConfig":                wire.JSON(s.selectResources),
	}
	return s
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeJSON(w, r, s.operations)
}

// SetRecorder makes r the recorder; nil for none.
func (s *Service) SetRecorder(r *Recorder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recorder = r
}

// Put adds items, or replaces those of the same type and id.
func (s *Service) Put(items ...Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range items {
		if item.Captured.IsZero() {
			item.Captured = time.Now()
		}
		i, found := slices.BinarySearchFunc(s.items, item, compareItems)
		if found {
			s.items[i] = item
		} else {
			s.items = slices.Insert(s.items, i, item)
		}
	}
}

func compareItems(a, b Item) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID)) }

// Remove removes the item of a resource that was deleted.
func (s *Service) Remove(resourceType, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items = slices.DeleteFunc(s.items, func(i Item) bool { return i.Type == resourceType && i.ID == id })
}

func authorize(ctx context.Context, action string) error {
	if c := wire.CallerFrom(ctx); !c.May("config:"+action, "*") {
		return wire.Errorf(400, "AccessDeniedException", "User: %s is not authorized to perform: config:%s", c.ARN, action)
	}
	return nil
}

const recorderName = "default"

type namesInput struct{ ConfigurationRecorderNames []string }

// has reports whether the request is about the recorder. Without names it is about the
// customer managed recorder, as far as there is one (API reference).
func (in namesInput) has(r *Recorder) (bool, error) {
	for _, name := range in.ConfigurationRecorderNames {
		if r == nil || name != recorderName {
			return false, wire.Errorf(400, "NoSuchConfigurationRecorderException", "Cannot find configuration recorder with the specified name '%s'.", name)
		}
	}
	return r != nil, nil
}

func (s *Service) recorderARN() string {
	return "arn:aws:config:" + s.config.Region + ":" + s.config.Account + ":configuration-recorder/" + recorderName + "/0000000000000000"
}

type recordersOutput struct{ ConfigurationRecorders []recorder }

type recorder struct {
	Name           string         `json:"name"`
	ARN            string         `json:"arn"`
	RoleARN        string         `json:"roleARN"`
	RecordingGroup RecordingGroup `json:"recordingGroup"`
	RecordingMode  struct {
		RecordingFrequency     string     `json:"recordingFrequency"`
		RecordingModeOverrides []struct{} `json:"recordingModeOverrides"`
	} `json:"recordingMode"`
	RecordingScope string `json:"recordingScope"`
}

func (s *Service) describeRecorders(ctx context.Context, in namesInput) (recordersOutput, error) {
	out := recordersOutput{ConfigurationRecorders: []recorder{}}
	if err := authorize(ctx, "DescribeConfigurationRecorders"); err != nil {
		return out, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if has, err := in.has(s.recorder); !has {
		return out, err
	}
	r := recorder{
		Name: recorderName, ARN: s.recorderARN(), RecordingScope: "PAID", RecordingGroup: s.recorder.Group,
		RoleARN: "arn:aws:iam::" + s.config.Account + ":role/aws-service-role/config.amazonaws.com/AWSServiceRoleForConfig",
	}
	r.RecordingMode.RecordingFrequency = "CONTINUOUS"
	if s.recorder.Daily {
		r.RecordingMode.RecordingFrequency = "DAILY"
	}
	out.ConfigurationRecorders = append(out.ConfigurationRecorders, r)
	return out, nil
}

type statusOutput struct{ ConfigurationRecordersStatus []status }

type status struct {
	Name          string          `json:"name"`
	ARN           string          `json:"arn"`
	Recording     bool            `json:"recording"`
	LastStatus    string          `json:"lastStatus"`
	LastErrorCode string          `json:"lastErrorCode,omitempty"`
	LastStopTime  *wire.Timestamp `json:"lastStopTime,omitempty"`
}

func (s *Service) describeStatus(ctx context.Context, in namesInput) (statusOutput, error) {
	out := statusOutput{ConfigurationRecordersStatus: []status{}}
	if err := authorize(ctx, "DescribeConfigurationRecorderStatus"); err != nil {
		return out, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if has, err := in.has(s.recorder); !has {
		return out, err
	}
	st := status{Name: recorderName, ARN: s.recorderARN(), Recording: s.recorder.Stopped.IsZero(), LastStatus: "SUCCESS", LastErrorCode: s.recorder.LastError}
	if st.LastErrorCode != "" {
		st.LastStatus = "FAILURE"
	}
	if !st.Recording {
		st.LastStopTime = new(wire.Timestamp(s.recorder.Stopped))
	}
	out.ConfigurationRecordersStatus = append(out.ConfigurationRecordersStatus, st)
	return out, nil
}

const (
	maxExpression = 4096
	maxLimit      = 100
	firstLimit    = 25  // of a page, where nobody says
	groupLimit    = 500 // of a page of groups, where nobody says
)

type selectInput struct {
	Expression string
	Limit      int
	NextToken  string
}

type selectOutput struct {
	NextToken string `json:",omitempty"`
	QueryInfo queryInfo
	Results   []string
}

type queryInfo struct{ SelectFields []field }

type field struct{ Name string }

// selectResources answers an advanced query. It does not find what the recorder is not
// told to record; of a recorder that was stopped it finds what was recorded before
// (Developer Guide, "Querying the Current Configuration State of AWS Resources").
// Without a recorder it finds nothing, and says nothing of that.
func (s *Service) selectResources(ctx context.Context, in selectInput) (selectOutput, error) {
	out := selectOutput{Results: []string{}}
	if err := authorize(ctx, "SelectResourceConfig"); err != nil {
		return out, err
	}
	if in.Limit < 0 || in.Limit > maxLimit {
		return out, wire.Errorf(400, "InvalidLimitException", "The specified limit %d is outside the allowable range.", in.Limit)
	}
	if len(in.Expression) == 0 || len(in.Expression) > maxExpression {
		return out, wire.Errorf(400, "ValidationException", "1 validation error detected: Value at 'expression' failed to satisfy constraint: Member must have length between 1 and %d", maxExpression)
	}
	q, err := parse(in.Expression)
	if err != nil {
		return out, wire.Errorf(400, "InvalidExpressionException", "%v", err)
	}
	for _, name := range q.fields {
		out.QueryInfo.SelectFields = append(out.QueryInfo.SelectFields, field{name})
	}
	s.mu.RLock()
	rows := q.run(s.documents())
	s.mu.RUnlock()
	limit := cmp.Or(in.Limit, firstLimit)
	if q.counts() {
		limit = cmp.Or(in.Limit, groupLimit)
	}
	first := 0
	if in.NextToken != "" {
		if err := json.Unmarshal([]byte(in.NextToken), &first); err != nil || first < 0 || first > len(rows) {
			return out, wire.Errorf(400, "InvalidNextTokenException", "The specified next token is not valid.")
		}
	}
	last := min(first+limit, len(rows))
	for _, row := range rows[first:last] {
		doc, err := json.Marshal(row)
		if err != nil {
			return out, err
		}
		out.Results = append(out.Results, string(doc))
	}
	if last < len(rows) {
		token, _ := json.Marshal(last) // a number
		out.NextToken = string(token)
	}
	return out, nil
}

// documents returns what is recorded, as JSON objects.
func (s *Service) documents() []map[string]any {
	if s.recorder == nil {
		return nil
	}
	var documents []map[string]any
	for _, i := range s.items {
		if !s.recorder.Group.records(i.Type) {
			continue
		}
		d := map[string]any{
			"accountId": s.config.Account, "awsRegion": s.config.Region, "resourceType": i.Type, "resourceId": i.ID,
			"configurationItemCaptureTime": i.Captured.UTC().Format("2006-01-02T15:04:05.000Z"),
			"configuration":                plain(i.Configuration), "supplementaryConfiguration": plain(i.Supplementary),
		}
		if i.Name != "" {
			d["resourceName"] = i.Name
		}
		if i.ARN != "" {
			d["arn"] = i.ARN
		}
		tags := []any{}
		for key, value := range i.Tags {
			tags = append(tags, map[string]any{"key": key, "value": value, "tag": key + "=" + value})
		}
		d["tags"] = tags
		documents = append(documents, d)
	}
	return documents
}

// plain returns a value as encoding/json decodes it.
func plain(v any) any {
	doc, err := json.Marshal(v)
	if err != nil {
		panic(err) // a test put in what is no JSON
	}
	var p any
	if err := json.Unmarshal(doc, &p); err != nil {
		panic(err)
	}
	return p
}
