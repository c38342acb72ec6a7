package awsconfig_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/awsconfig"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

func newServer(t *testing.T) (*localaws.Server, awsconfig.API) {
	server := localaws.New(localaws.Options{})
	t.Cleanup(server.Close)
	cfg := inprocess.Config(server, "us-east-1", "ada")
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return server, awsclient.AWSConfig(cfg)
}

// TestRecorder: which types nobody may claim to know.
func TestRecorder(t *testing.T) {
	stopped := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	const volume, queue = "AWS::EC2::Volume", "AWS::SQS::Queue"
	for name, test := range map[string]struct {
		recorder      *config.Recorder
		volume, queue string // why they are missed
		daily         bool
	}{
		"none":            {nil, "no recorder", "no recorder", false},
		"all":             {&config.Recorder{Group: config.All()}, "", "", false},
		"all, long ago":   {&config.Recorder{Group: config.RecordingGroup{AllSupported: true}}, "", "", false},
		"daily":           {&config.Recorder{Group: config.All(), Daily: true}, "", "", true},
		"stopped":         {&config.Recorder{Group: config.All(), Stopped: stopped}, "has not run since 2026-11-01T00:00:00Z", "has not run since", false},
		"failing":         {&config.Recorder{Group: config.All(), LastError: "AccessDenied"}, "fails with AccessDenied", "fails with AccessDenied", false},
		"one type":        {&config.Recorder{Group: config.Only(volume)}, "", "does not record the type", false},
		"one type, named": {&config.Recorder{Group: config.RecordingGroup{ResourceTypes: []string{volume}}}, "", "does not record the type", false},
		"nothing":         {&config.Recorder{}, "does not record the type", "does not record the type", false},
		"all but one":     {&config.Recorder{Group: config.AllBut(volume)}, "does not record the type", "", false},
		"the strategy overrides": {&config.Recorder{Group: config.RecordingGroup{
			AllSupported: true, ResourceTypes: []string{volume}, RecordingStrategy: &config.RecordingStrategy{UseOnly: "EXCLUSION_BY_RESOURCE_TYPES"},
			ExclusionByResourceTypes: &config.ResourceTypes{ResourceTypes: []string{volume}},
		}}, "does not record the type", "", false},
		"a strategy of the future": {&config.Recorder{Group: config.RecordingGroup{
			AllSupported: true, RecordingStrategy: &config.RecordingStrategy{UseOnly: "BY_TAG"},
		}}, "does not record the type", "does not record the type", false},
	} {
		t.Run(name, func(t *testing.T) {
			server, api := newServer(t)
			server.AWSConfig().SetRecorder(test.recorder)
			r, err := awsconfig.Read(t.Context(), api)
			if err != nil {
				t.Fatal(err)
			}
			for resourceType, want := range map[string]string{volume: test.volume, queue: test.queue} {
				if got := r.Misses(resourceType); (got == "") != (want == "") || !strings.Contains(got, want) {
					t.Errorf("%s: %q, want %q", resourceType, got, want)
				}
			}
			if r.Daily != test.daily {
				t.Errorf("daily: %v", r.Daily)
			}
		})
	}
}

// TestSelect: all pages are read, up to the bound, and the answer says where there are more.
func TestSelect(t *testing.T) {
	server, api := newServer(t)
	server.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
	for i := range 250 {
		server.AWSConfig().Put(config.Item{Type: "AWS::EC2::Volume", ID: fmt.Sprintf("vol-%03d", i), Configuration: map[string]any{"kmsKeyId": "o'key", "encrypted": i%2 == 0}})
	}
	server.AWSConfig().Put(config.Item{Type: "AWS::SQS::Queue", ID: "q"})
	all := "SELECT resourceId, configuration.encrypted WHERE resourceType = 'AWS::EC2::Volume' AND configuration.kmsKeyId = " + awsconfig.Quote("o'key")
	for pages, want := range map[int]struct {
		rows int
		more bool
	}{1: {100, true}, 2: {200, true}, 3: {250, false}, 9: {250, false}} {
		rows, more, err := awsconfig.Select(t.Context(), api, all, pages)
		if err != nil || len(rows) != want.rows || more != want.more {
			t.Errorf("%d pages: %d rows, more %v, %v", pages, len(rows), more, err)
		}
	}
	rows, _, err := awsconfig.Select(t.Context(), api, "SELECT resourceType, COUNT(*) GROUP BY resourceType", 1)
	if err != nil {
		t.Fatal(err)
	}
	got := texts(rows)
	slices.Sort(got) // groups are in no order
	if d := cmp.Diff([]string{`{"COUNT(*)":1,"resourceType":"AWS::SQS::Queue"}`, `{"COUNT(*)":250,"resourceType":"AWS::EC2::Volume"}`}, got); d != "" {
		t.Error(d)
	}
}

func texts(rows []json.RawMessage) (all []string) {
	for _, r := range rows {
		all = append(all, string(r))
	}
	return all
}

// TestErrors: what AWS refuses is an error of its code, and never an empty answer.
func TestErrors(t *testing.T) {
	server, api := newServer(t)
	server.AWSConfig().SetRecorder(&config.Recorder{Group: config.All()})
	code := func(err error) string {
		var e smithy.APIError
		if errors.As(err, &e) {
			return e.ErrorCode()
		}
		return fmt.Sprint(err)
	}
	if _, _, err := awsconfig.Select(t.Context(), api, "SELECT * FROM resources", 1); code(err) != "InvalidExpressionException" {
		t.Error(err)
	}
	for denied, call := range map[string]func() error{
		"config:DescribeConfigurationRecorders":      func() error { _, err := awsconfig.Read(t.Context(), api); return err },
		"config:DescribeConfigurationRecorderStatus": func() error { _, err := awsconfig.Read(t.Context(), api); return err },
		"config:SelectResourceConfig":                func() error { _, _, err := awsconfig.Select(t.Context(), api, "SELECT resourceId", 1); return err },
	} {
		server.SetIdentityPolicy("ada", func(action, _ string) bool { return action != denied })
		if err := call(); code(err) != "AccessDeniedException" || !strings.Contains(err.Error(), denied) {
			t.Errorf("without %s: %v", denied, err)
		}
		if permissions := awsconfig.Permissions; !strings.Contains(permissions, denied) {
			t.Errorf("%s is not among the permissions", denied)
		}
	}
	server.SetIdentityPolicy("ada", nil)
	server.SetFaults(localaws.Fault{Service: "config", Effect: localaws.Throttle, Rate: 1e-3})
	for range 2 {
		_, _, err := awsconfig.Select(t.Context(), api, "SELECT resourceId", 1)
		if err != nil && code(err) != "ThrottlingException" {
			t.Error(err)
		}
	}
}
