package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/keypolicy"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/rotate"
)

const rotateAbout = `Replaces the key that an alias points to by a new one like it, and moves the alias, the buckets' default encryption and the data in S3 to it. The old key stays enabled unless --delete-old asks for more.

The steps: create-key, survey-data, move-aliases, move-bucket-defaults, move-data, check-old-key and, with --delete-old, delete-old-key. The data is moved by jobs of the fleet. A key with imported material, of which the next is imported already, is rotated on demand instead, and stays the same key.

How far it is, is recorded in the state bucket. A rotation that was interrupted goes on with "rotate resume", on any machine, and is undone by "rotate abort". The same command again goes on with the rotation of the alias that has not ended.

Run it as yourself, not as the fleet's role.`

const rotateExample = `  # what it would do and cost, and what it cannot move
  cmkeeper rotate alias/app --dry-run
  # up to the aliases, and later the rest
  cmkeeper rotate alias/app --until move-aliases
  cmkeeper rotate resume alias/app
  # all of it, with another alias of the same key, and the old key deleted in the end
  cmkeeper rotate alias/app --also alias/app-logs --delete-old --unused-days 30
  # undo it
  cmkeeper rotate abort alias/app`

// rotateFlags are what all commands that work on a rotation have in common.
type rotateFlags struct {
	json        bool
	concurrency int
	until       string
	accepted    []string
	checked     string
}

func (f *rotateFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.json, "json", false, "print the rotation as one JSON object")
	c.Flags().IntVar(&f.concurrency, "concurrency", 64, "objects asked at once by a survey")
}

// addDeletion adds the flags of commands that may come to the old key's deletion.
func (f *rotateFlags) addDeletion(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.until, "until", "", "stop when this `step` is done")
	flags.StringArrayVar(&f.accepted, "accept", nil, "accept for the deletion of the old key that something is `unknown`, by the name that the check gives it; repeat it for several")
	flags.StringVar(&f.checked, "yes-i-checked", "", "the old key's `id`, instead of typing it when asked before its deletion is scheduled")
}

type rotateCommand struct {
	rotateFlags
	also    []string
	choices rotate.Choices
	dryRun  bool
	again   bool
	sample  int
}

func newRotateCommand(p *process) *cobra.Command {
	var c rotateCommand
	command := &cobra.Command{
		Use: "rotate ALIAS", Short: "Replace a key by a new one, with its aliases and data; resumable, and can be undone",
		Long: rotateAbout, Example: rotateExample, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return c.run(ctx, p, args[0]) })(cmd, args)
		},
	}
	c.add(command)
	c.addDeletion(command)
	flags := command.Flags()
	flags.BoolVar(&c.again, "again", false, "replace the key also where the alias's last rotation was done less than 15 minutes ago; without it, that one is shown")
	flags.BoolVar(&c.dryRun, "dry-run", false, "say what each step would do and cost, and change nothing")
	flags.IntVar(&c.sample, "sample", 0, "with --dry-run: ask only this many object versions of each bucket, at random, and scale up; 0 asks all")
	flags.StringArrayVar(&c.also, "also", nil, "another `alias` of the same key that moves; repeat it for several")
	flags.StringArrayVar(&c.choices.Buckets, "bucket", nil, "move the data of this `bucket` alone; repeat it for several. By default all buckets of the account and Region are searched")
	flags.BoolVar(&c.choices.DeleteOld, "delete-old", false, "schedule the old key's deletion, 30 days ahead, when nothing is known to need it, it was not used for --unused-days, and you confirm it")
	flags.IntVar(&c.choices.UnusedDays, "unused-days", 30, "with --delete-old: days for which the old key must not have been used")
	flags.BoolVar(&c.choices.AcceptPolicy, "accept-policy", false, "copy the key policy although it has findings of severity high or above")
	rewriteFlags(command, &c.choices.Envelopes, &c.choices.RewriteFiles)
	flags.StringVar(&c.choices.XksKey, "xks-key-id", "", "`id` of the external key for the new key, for a key in an external key store")
	command.MarkFlagsMutuallyExclusive("dry-run", "until")
	command.AddCommand(newRotateStatusCommand(p), newRotateResumeCommand(p), newRotateAbortCommand(p))
	return command
}

func newRotateStatusCommand(p *process) *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use: "status [ROTATION|ALIAS]", Short: "Show how far a rotation is, or list all of them",
		Example: "  cmkeeper rotate status\n  cmkeeper rotate status alias/app --json", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.action(func(ctx context.Context, p *process) error { return rotateStatus(ctx, p, args, asJSON) })(cmd, args)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return command
}

func newRotateResumeCommand(p *process) *cobra.Command {
	var f rotateFlags
	command := &cobra.Command{
		Use: "resume ROTATION|ALIAS", Short: "Go on with a rotation, or with its abort",
		Example: "  cmkeeper rotate resume alias/app\n  cmkeeper rotate resume alias/app --until move-data", Args: cobra.ExactArgs(1),
		RunE: f.work(p, func(ctx context.Context, r *rotate.Rotator, name string) (rotate.Record, error) {
			return r.Resume(ctx, name, rotate.Step(f.until))
		}),
	}
	f.add(command)
	f.addDeletion(command)
	return command
}

func newRotateAbortCommand(p *process) *cobra.Command {
	var f rotateFlags
	var leaveData bool
	command := &cobra.Command{
		Use: "abort ROTATION|ALIAS", Short: "Undo a rotation: aliases, bucket defaults and data go back to the old key",
		Long: `Points the aliases and the buckets' default encryption back to the old key, ends the jobs of the move, and moves the data back.

The new key is disabled, by this command or a later "rotate resume", when a search of all object versions found nothing under it, no grant lets anybody use it, and it was not used for a day. Until then it stays enabled, and "rotate status" says what is on it.`,
		Example: "  cmkeeper rotate abort alias/app\n  cmkeeper rotate abort alias/app --leave-data", Args: cobra.ExactArgs(1),
		RunE: f.work(p, func(ctx context.Context, r *rotate.Rotator, name string) (rotate.Record, error) {
			return r.Abort(ctx, name, leaveData)
		}),
	}
	f.add(command)
	command.Flags().BoolVar(&leaveData, "leave-data", false, "leave the data that was moved under the new key, which then stays enabled")
	return command
}

// work makes a command's action of what it does with a rotation, its one argument.
func (f *rotateFlags) work(p *process, do func(context.Context, *rotate.Rotator, string) (rotate.Record, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return p.action(func(ctx context.Context, p *process) error {
			if err := f.checkStep(); err != nil {
				return usageError{err}
			}
			r, err := f.rotator(ctx, p)
			if err != nil {
				return err
			}
			rec, err := do(ctx, r, aliasName(args[0]))
			return f.end(p, rec, err)
		})(cmd, args)
	}
}

// checkStep returns what is wrong with --until. Whether the rotation has that step shows
// when its record is read.
func (f *rotateFlags) checkStep() error {
	steps := append(rotate.Steps(), rotate.StepRotateMaterial, rotate.StepRestoreAliases, rotate.StepRestoreDefaults, rotate.StepRestoreData, rotate.StepDisableNewKey, "")
	if !slices.Contains(steps, rotate.Step(f.until)) {
		return fmt.Errorf("--until %q is not a step: they are listed by cmkeeper rotate --help", f.until)
	}
	return nil
}

// end prints what a rotation has come to.
func (f *rotateFlags) end(p *process, rec rotate.Record, err error) error {
	if rec.ID == "" {
		return err
	}
	if f.json {
		return errors.Join(err, printRotationJSON(p.stdout, rec))
	}
	return errors.Join(err, printRotation(p.stdout, rec))
}

// aliasName is the name in an alias's ARN, and any other text as it is.
func aliasName(text string) string {
	if a := arn.Parse(text); strings.HasPrefix(a.Resource, "alias/") {
		return a.Resource
	}
	return text
}

// rotator returns what works on rotations.
func (f *rotateFlags) rotator(ctx context.Context, p *process) (*rotate.Rotator, error) {
	if f.concurrency < 1 {
		return nil, usageError{errors.New("--concurrency must be at least 1")}
	}
	hand, store, engine, err := fleetEngine(ctx, p, f.concurrency)
	if err != nil {
		return nil, err
	}
	show, _ := counting(p.stderr)
	out := newLine(p.stderr)
	return &rotate.Rotator{
		KMS: hand.kms, Facts: hand.facts, Mover: engine, Store: store, StateBucket: p.environment[envPrefix+"STATE_BUCKET"],
		Check: retire.Checker{S3: hand.s3, Facts: hand.facts, Account: hand.account, Survey: engine, Resources: hand.dependents(), Trail: hand.trails, Jobs: engine, StateBucketSet: true},
		Judge: hand.judge, By: hand.caller, Accepted: f.accepted,
		Confirm: func(r retire.Result) error { return f.confirm(p, r) },
		Say:     out.say,
		Seen:    show,
		Follow:  func(s reencrypt.Status) { _ = out.show(watchText(s, s.Rate())) },
	}, nil
}

// judge returns what is wrong with a key policy.
func (b byHand) judge(keyARN, policy string) ([]finding.Finding, error) {
	parsed, err := keypolicy.Parse([]byte(policy))
	if err != nil {
		return nil, err
	}
	return parsed.Findings(keypolicy.Context{
		Account: b.account, KeyARN: keyARN, Now: time.Now(),
		TrustedAccounts: b.settings.TrustedAccounts, TrustedOrgs: b.settings.TrustedOrgs,
	}), nil
}

// confirm has a person confirm the deletion of a key, with what was not looked at before
// their eyes.
func (f *rotateFlags) confirm(p *process, r retire.Result) error {
	id := arn.KeyID(r.Key)
	checked := f.checked
	if checked == "" {
		if err := (&retireFlags{}).print(p.stderr, r); err != nil {
			return err
		}
		var err error
		if checked, err = ask(os.Stdin, p.stderr, fmt.Sprintf("To schedule the deletion of the old key in 30 days, type its id (%s): ", id)); err != nil {
			return err
		}
	}
	if checked != id {
		return fmt.Errorf("the deletion of key %s was not scheduled: %q is not its id", r.Key, checked)
	}
	return nil
}

// check returns what is wrong with the command line.
func (c *rotateCommand) check(alias string) error {
	for _, name := range append([]string{alias}, c.also...) {
		if !strings.HasPrefix(name, "alias/") {
			return fmt.Errorf("%q is not an alias: name it as alias/NAME", name)
		}
	}
	if err := c.checkStep(); err != nil {
		return err
	}
	switch {
	case c.sample < 0:
		return errors.New("--sample must not be negative")
	case c.sample > 0 && !c.dryRun:
		return errors.New("--sample goes with --dry-run: a rotation looks at every object version")
	case c.choices.UnusedDays < 1:
		return errors.New("--unused-days must be at least 1")
	}
	return nil
}

// run plans, or starts and works.
func (c *rotateCommand) run(ctx context.Context, p *process, alias string) error {
	alias = aliasName(alias)
	for i := range c.also {
		c.also[i] = aliasName(c.also[i])
	}
	if err := c.check(alias); err != nil {
		return usageError{err}
	}
	if !c.choices.DeleteOld {
		c.choices.UnusedDays = 0
	}
	if !c.choices.Envelopes.On() {
		c.choices.Envelopes = ""
	}
	r, err := c.rotator(ctx, p)
	if err != nil {
		return err
	}
	r.Again = c.again
	if c.dryRun {
		return c.plan(ctx, p, r, alias)
	}
	rec, begun, err := r.Start(ctx, alias, c.also, c.choices)
	if err != nil {
		return err
	}
	switch {
	case begun:
		fmt.Fprintf(p.stderr, "Began rotation %s of %s.\n", rec.ID, alias)
	case rec.State == rotate.StateDone:
		fmt.Fprintf(p.stderr, "Rotation %s of %s was done less than 15 minutes ago. To replace the key once more, add --again.\n", rec.ID, alias)
	default:
		fmt.Fprintf(p.stderr, "Going on with rotation %s of %s.\n", rec.ID, alias)
	}
	rec, err = r.Resume(ctx, rec.ID, rotate.Step(c.until))
	return c.end(p, rec, err)
}

// plan prints what a rotation would do.
func (c *rotateCommand) plan(ctx context.Context, p *process, r *rotate.Rotator, alias string) error {
	plan, err := r.Plan(ctx, alias, c.also, c.choices, c.sample)
	if err != nil {
		return err
	}
	if c.json {
		err = printJSON(p.stdout, plan)
	} else {
		err = printRotationPlan(p.stdout, plan)
	}
	if err == nil && len(plan.Stops) > 0 {
		return errSilent
	}
	return err
}

// rotateStatus prints a rotation, or all of them.
func rotateStatus(ctx context.Context, p *process, args []string, asJSON bool) error {
	c, err := loadForDesk[Common](ctx, p.environment, "STATE_BUCKET")
	if err != nil {
		return err
	}
	hand, err := newByHand(ctx, p, c, 4)
	if err != nil {
		return err
	}
	store := hand.store(c.StateBucket)
	if len(args) == 1 {
		rec, err := rotate.Read(ctx, store, aliasName(args[0]))
		if err != nil {
			return err
		}
		f := rotateFlags{json: asJSON}
		return f.end(p, rec, nil)
	}
	all, err := rotate.List(ctx, store)
	if asJSON {
		return errors.Join(err, printRotationsJSON(p.stdout, all))
	}
	return errors.Join(err, printRotations(p.stdout, all))
}
