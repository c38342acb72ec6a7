// Package awsconfig reads from AWS Config what resources an account has in a Region: which
// resource types the recorder records, and the answers to advanced queries.
//
// A query finds only what the recorder records. It does not fail where there is no recorder,
// so nobody may conclude from an empty answer that there is no such resource, unless
// [Recorder.Misses] is "" for its type.
package awsconfig

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// API is what this package calls; awsclient.AWSConfig returns one.
type API interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Permissions are the permissions that [Read] and [Select] need.
const Permissions = "config:DescribeConfigurationRecorders, config:DescribeConfigurationRecorderStatus and config:SelectResourceConfig"

// Recorder is the account's own configuration recorder in a Region. The zero value is none.
type Recorder struct {
	// Exists: there is one.
	Exists bool
	// Recording: it runs. Stopped is when it was stopped, if it does not and if that is known.
	Recording bool
	Stopped   time.Time
	// Failure is the code of the error that it failed with, if that is the last thing that
	// it did ("AccessDenied"); else "".
	Failure string
	// Daily: of some types at least, it records each day's state and not each change.
	Daily bool
	// strategy, and the types that it is about
	strategy string
	types    []string
}

// The recording strategies.
const (
	recordsAll    = "ALL_SUPPORTED_RESOURCE_TYPES"
	recordsListed = "INCLUSION_BY_RESOURCE_TYPES"
	recordsOthers = "EXCLUSION_BY_RESOURCE_TYPES"
)

// Misses says why a query may miss resources of the type ("AWS::EC2::Volume"): there is no
// recorder, it does not run, it fails, or it does not record the type. "" means that it
// records the type.
func (r Recorder) Misses(resourceType string) string {
	switch {
	case !r.Exists:
		return "AWS Config has no recorder in this Region"
	case !r.Recording && r.Stopped.IsZero():
		return "the recorder of AWS Config does not run"
	case !r.Recording:
		return "the recorder of AWS Config has not run since " + r.Stopped.UTC().Format(time.RFC3339)
	case r.Failure != "":
		return "the recorder of AWS Config fails with " + r.Failure
	case r.strategy == recordsListed && !slices.Contains(r.types, resourceType),
		r.strategy == recordsOthers && slices.Contains(r.types, resourceType):
		return "the recorder of AWS Config does not record the type"
	}
	return ""
}

// recorderOutput is the answer to DescribeConfigurationRecorders.
type recorderOutput struct {
	ConfigurationRecorders []struct {
		Name           string `json:"name"`
		RecordingGroup struct {
			AllSupported             bool     `json:"allSupported"`
			ResourceTypes            []string `json:"resourceTypes"`
			ExclusionByResourceTypes struct {
				ResourceTypes []string `json:"resourceTypes"`
			} `json:"exclusionByResourceTypes"`
			RecordingStrategy struct {
				UseOnly string `json:"useOnly"`
			} `json:"recordingStrategy"`
		} `json:"recordingGroup"`
		RecordingMode struct {
			RecordingFrequency     string `json:"recordingFrequency"`
			RecordingModeOverrides []struct {
				RecordingFrequency string `json:"recordingFrequency"`
			} `json:"recordingModeOverrides"`
		} `json:"recordingMode"`
	}
}

// statusOutput is the answer to DescribeConfigurationRecorderStatus.
type statusOutput struct {
	ConfigurationRecordersStatus []struct {
		Name          string  `json:"name"`
		Recording     bool    `json:"recording"`
		LastStatus    string  `json:"lastStatus"`
		LastErrorCode string  `json:"lastErrorCode"`
		LastStopTime  float64 `json:"lastStopTime"` // seconds since 1970
	}
}

// Read reads the customer managed recorder, of which an account has at most one in a
// Region. Recorders of AWS services are not looked at: what they record is for the service.
func Read(ctx context.Context, api API) (Recorder, error) {
	var recorders recorderOutput
	if err := api.Call(ctx, "DescribeConfigurationRecorders", struct{}{}, &recorders); err != nil {
		return Recorder{}, fmt.Errorf("describe the recorder of AWS Config: %w", err)
	}
	if len(recorders.ConfigurationRecorders) == 0 {
		return Recorder{}, nil
	}
	var status statusOutput
	if err := api.Call(ctx, "DescribeConfigurationRecorderStatus", struct{}{}, &status); err != nil {
		return Recorder{}, fmt.Errorf("read the status of the recorder of AWS Config: %w", err)
	}
	return recorderOf(recorders, status), nil
}

// recorderOf is pure. What a recorder is told to use only overrides the other members
// (API reference, RecordingGroup and RecordingStrategy).
func recorderOf(recorders recorderOutput, statuses statusOutput) Recorder {
	d := recorders.ConfigurationRecorders[0]
	r := Recorder{Exists: true, strategy: d.RecordingGroup.RecordingStrategy.UseOnly}
	switch {
	case r.strategy == "" && d.RecordingGroup.AllSupported:
		r.strategy = recordsAll
	case r.strategy != recordsAll && r.strategy != recordsOthers:
		r.strategy = recordsListed // also a strategy that this build does not know: it claims the least
	}
	switch r.strategy {
	case recordsListed:
		r.types = d.RecordingGroup.ResourceTypes
	case recordsOthers:
		r.types = d.RecordingGroup.ExclusionByResourceTypes.ResourceTypes
	}
	r.Daily = d.RecordingMode.RecordingFrequency == "DAILY"
	for _, o := range d.RecordingMode.RecordingModeOverrides {
		r.Daily = r.Daily || o.RecordingFrequency == "DAILY"
	}
	for _, s := range statuses.ConfigurationRecordersStatus {
		if s.Name != d.Name {
			continue
		}
		r.Recording = s.Recording
		if s.LastStatus == "FAILURE" {
			if r.Failure = s.LastErrorCode; r.Failure == "" {
				r.Failure = "an error"
			}
		}
		if !s.Recording && s.LastStopTime > 0 {
			r.Stopped = time.Unix(int64(s.LastStopTime), 0)
		}
	}
	return r
}

const (
	// MaxExpression is the greatest length of a query.
	MaxExpression = 4096
	// PageSize is how many rows are asked for at a time, the most that AWS Config gives.
	PageSize = 100
)

// Select asks an advanced query and reads at most that many pages of the answer. Each row
// is a JSON object with the selected properties in their nesting. more: there are more pages.
func Select(ctx context.Context, api API, expression string, pages int) (rows []json.RawMessage, more bool, err error) {
	more, err = Each(ctx, api, expression, pages, func(row json.RawMessage) error {
		rows = append(rows, row)
		return nil
	})
	return rows, more, err
}

// Each is Select, and calls row with each row as it comes, so that not all are held at once.
// An error of row ends it, and is returned.
func Each(ctx context.Context, api API, expression string, pages int, row func(json.RawMessage) error) (more bool, err error) {
	in := struct {
		Expression string
		Limit      int
		NextToken  string `json:",omitempty"`
	}{Expression: expression, Limit: PageSize}
	for range pages {
		var out struct {
			NextToken string
			Results   []string
		}
		if err := api.Call(ctx, "SelectResourceConfig", in, &out); err != nil {
			return true, fmt.Errorf("query AWS Config: %w", err)
		}
		for _, text := range out.Results {
			if err := row(json.RawMessage(text)); err != nil {
				return true, err
			}
		}
		if in.NextToken = out.NextToken; in.NextToken == "" {
			return false, nil
		}
	}
	return true, nil
}

// Quote returns text as a string in a query.
func Quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
