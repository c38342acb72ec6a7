package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/state"
)

type replayCommand struct {
	files []string
	json  bool
}

func newReplayCommand(p *process) *cobra.Command {
	var c replayCommand
	command := &cobra.Command{
		Use: "replay FILE...", Short: "Show what the worker would do about events, without changing anything",
		Long: `Shows what the worker would do about events. Each file holds one or several JSON events, or is a CloudTrail log file; - is standard input.

The events go through the same code as in the worker, in observe mode: live keys are read through the SDK's configuration, nothing is changed, nothing is sent. With CMKEEPER_STATE_BUCKET the recorded history is read, too; what would be recorded is kept in memory. CMKEEPER_TRUSTED_ACCOUNTS and the other settings of reactions count.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, files []string) error {
			c.files = files
			return p.action(c.run)(command, files)
		},
	}
	command.Flags().BoolVar(&c.json, "json", false, "print one alert per line as JSON")
	return command
}

// run replays every event of every file; it fails if one of them could not be handled.
func (c *replayCommand) run(ctx context.Context, p *process) error {
	config, err := loadReplay(ctx, p.environment)
	if err != nil {
		return err
	}
	bodies, err := readEvents(c.files)
	if err != nil {
		return usageError{err}
	}
	cfg, err := p.config(ctx, 16)
	if err != nil {
		return err
	}
	format := alert.FormatText
	if c.json {
		format = alert.FormatJSON
	}
	router, closeState, err := observer(ctx, config, cfg, &alert.Printer{W: p.stdout, Format: format}, config.logger(p.stderr))
	if err != nil {
		return err
	}
	defer closeState()
	failed := false
	for i, body := range bodies {
		e, err := events.Parse(body)
		if err == nil {
			if !c.json {
				fmt.Fprintf(p.stdout, "── %s by %s, key %s, %s\n", alert.Escape(e.Name), alert.Escape(e.Actor.String()), alert.Escape(e.KeyARN), e.Time)
			}
			err = router.Handle(ctx, handlers.Message{Body: body})
		}
		switch d := outcome.Of(err); d.Action {
		case outcome.Delete:
		case outcome.Delay:
			fmt.Fprintf(p.stderr, "event %d: would wait %s: %v\n", i+1, d.After, err)
		case outcome.DeadLetter, outcome.Retry:
			failed = true
			fmt.Fprintf(p.stderr, "event %d: %v\n", i+1, err)
		}
	}
	if failed {
		return errSilent
	}
	return nil
}

// replaySettings are what the reactions go by. Queues and topics may be left out: they
// are only what the reactions take for the fleet's own.
type replaySettings struct {
	Common
	Queues
	Alerts
}

// loadReplay reads the settings, with observe for enforce.
func loadReplay(ctx context.Context, environment map[string]string) (replaySettings, error) {
	settings := maps.Clone(environment)
	observeOnly(settings)
	return loadForDesk[replaySettings](ctx, settings)
}

// observeOnly has every reaction that enforces observe.
func observeOnly(environment map[string]string) {
	for name, value := range environment {
		if strings.HasPrefix(name, envPrefix) && strings.HasSuffix(name, "_MODE") && value == "enforce" {
			environment[name] = "observe"
		}
	}
}

// observer returns a router that can change nothing: it has no client that
// writes, and what it records goes to memory.
func observer(ctx context.Context, c replaySettings, cfg aws.Config, alerts alert.Sink, log *slog.Logger) (*handlers.Router, func(), error) {
	caller, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return nil, nil, fmt.Errorf("ask AWS who we are (replay reads the live keys): %w", err)
	}
	account := aws.ToString(caller.Account)
	var queues []string
	for _, url := range []string{c.EventsQueueURL, c.JobsQueueURL} {
		if url != "" {
			queues = append(queues, path.Base(url))
		}
	}
	// The name is none that IAM allows: the caller is not the worker, so no event of
	// theirs may be taken for a call of the worker's.
	reactions, err := c.reactions(reaction.Identity{Account: account, Name: "(replay)"}, cfg.Region, c.topics(), queues)
	if err != nil {
		return nil, nil, err
	}
	memory := localaws.New(localaws.Options{Account: account, Region: cfg.Region})
	local := awsclient.S3(inprocess.Config(memory, cfg.Region, "replay"), nil)
	live := c.s3(cfg)
	bucket, store := "state", state.S3(local)
	if c.StateBucket != "" {
		bucket, store = c.StateBucket, copyOnRead{S3: local, live: live}
	}
	if _, err := local.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		return nil, nil, fmt.Errorf("keep state in memory: %w", err)
	}
	router, err := handlers.New(reaction.Deps{
		KMS:    unwritableKMS{},
		Facts:  inventory.New(kms.NewFromConfig(cfg), live, account, cfg.Region),
		State:  c.store(store, bucket, account),
		Alerts: alerts, Trail: awsclient.CloudTrail(cfg), Resources: awsclient.AWSConfig(cfg), EBS: awsclient.NewEC2(cfg), Senders: handlers.AnySender{}, Logger: log,
	}, reactions)
	return router, memory.Close, err
}

// copyOnRead is a state bucket in memory that fetches a document from the live
// one when it is first read. Nothing is ever written to the live one.
type copyOnRead struct {
	state.S3
	live state.S3
}

// GetObject reads from memory, else copies the live document there first.
func (b copyOnRead) GetObject(ctx context.Context, in *s3.GetObjectInput, o ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	out, err := b.S3.GetObject(ctx, in)
	if err == nil {
		return out, nil
	}
	document, liveErr := b.live.GetObject(ctx, in, o...)
	if liveErr != nil {
		return nil, liveErr
	}
	body, liveErr := io.ReadAll(document.Body)
	if liveErr = errors.Join(liveErr, document.Body.Close()); liveErr != nil {
		return nil, liveErr
	}
	if _, err := b.PutObject(ctx, &s3.PutObjectInput{Bucket: in.Bucket, Key: in.Key, Body: bytes.NewReader(body)}); err != nil {
		return nil, err
	}
	return b.S3.GetObject(ctx, in)
}

// ListObjectsV2 lists the live bucket.
func (b copyOnRead) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input, o ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	return b.live.ListObjectsV2(ctx, in, o...)
}

// unwritableKMS refuses the calls that observe mode must never make.
type unwritableKMS struct{}

var errUnwritable = errors.New("replay changes nothing: this call is a bug in cmkeeper")

func (unwritableKMS) EnableKeyRotation(context.Context, *kms.EnableKeyRotationInput, ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error) {
	return nil, errUnwritable
}

func (unwritableKMS) CancelKeyDeletion(context.Context, *kms.CancelKeyDeletionInput, ...func(*kms.Options)) (*kms.CancelKeyDeletionOutput, error) {
	return nil, errUnwritable
}

func (unwritableKMS) EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error) {
	return nil, errUnwritable
}

func (unwritableKMS) DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error) {
	return nil, errUnwritable
}

func (unwritableKMS) PutKeyPolicy(context.Context, *kms.PutKeyPolicyInput, ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error) {
	return nil, errUnwritable
}

func (unwritableKMS) UpdateKeyDescription(context.Context, *kms.UpdateKeyDescriptionInput, ...func(*kms.Options)) (*kms.UpdateKeyDescriptionOutput, error) {
	return nil, errUnwritable
}

// readEvents reads the JSON values of all files. A value with a "Records" array
// is a CloudTrail log file: its records are the events.
func readEvents(files []string) ([]json.RawMessage, error) {
	var all []json.RawMessage
	for _, file := range files {
		in := io.ReadCloser(os.Stdin)
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return nil, err
			}
			in = f
		}
		decoder := json.NewDecoder(in)
		for {
			var value json.RawMessage
			err := decoder.Decode(&value)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				_ = in.Close()
				return nil, fmt.Errorf("%s: value %d is not JSON: %w", file, len(all)+1, err)
			}
			var log struct{ Records []json.RawMessage }
			switch {
			case json.Unmarshal(value, &log) == nil && len(log.Records) > 0 && value[0] == '{':
				all = append(all, log.Records...)
			case value[0] == '[':
				var list []json.RawMessage
				if err := json.Unmarshal(value, &list); err != nil {
					return nil, fmt.Errorf("%s: %w", file, err)
				}
				all = append(all, list...)
			default:
				all = append(all, value)
			}
		}
		_ = in.Close()
	}
	return all, nil
}
