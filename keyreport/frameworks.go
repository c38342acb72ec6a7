package keyreport

// Framework is a public framework with those of its controls that the checks say
// something about.
type Framework struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Sources are where the mapping is from, and when it was read there.
	Sources  []Reference `json:"sources"`
	Controls []Control   `json:"controls"`
}

// Reference is a public source.
type Reference struct {
	Title string `json:"title"`
	URL   string `json:"url"`
	// Read is the day on which it was read.
	Read string `json:"read"`
}

// Control is a control of a framework.
type Control struct {
	// ID is the control's own number.
	ID    string `json:"id"`
	Title string `json:"title"`
	// Checks are those that the sources map to it. It passes if all of them do.
	Checks []CheckID `json:"checks"`
	// Basis says on what the mapping rests where that is not a source's table.
	Basis string `json:"basis,omitempty"`
}

// mappingRead is when the sources were read.
const mappingRead = "2026-11-29"

// The sources. The pages of AWS have one table for each control of Security Hub, whose row
// "Related requirements" is the mapping.
var (
	hubKMS        = Reference{"AWS Security Hub User Guide, controls for AWS KMS", "https://docs.aws.amazon.com/securityhub/latest/userguide/kms-controls.html", mappingRead}
	hubS3         = Reference{"AWS Security Hub User Guide, controls for Amazon S3", "https://docs.aws.amazon.com/securityhub/latest/userguide/s3-controls.html", mappingRead}
	hubEC2        = Reference{"AWS Security Hub User Guide, controls for Amazon EC2", "https://docs.aws.amazon.com/securityhub/latest/userguide/ec2-controls.html", mappingRead}
	hubCIS        = Reference{"AWS Security Hub User Guide, CIS AWS Foundations Benchmark", "https://docs.aws.amazon.com/securityhub/latest/userguide/cis-aws-foundations-benchmark.html", mappingRead}
	hubSamples    = Reference{"AWS Security Hub User Guide, sample control findings (CloudTrail.2)", "https://docs.aws.amazon.com/securityhub/latest/userguide/sample-control-findings.html", mappingRead}
	hubFSBP       = Reference{"AWS Security Hub User Guide, AWS Foundational Security Best Practices", "https://docs.aws.amazon.com/securityhub/latest/userguide/fsbp-standard.html", mappingRead}
	nist          = Reference{"NIST SP 800-53 Revision 5", "https://csrc.nist.gov/pubs/sp/800/53/r5/upd1/final", mappingRead}
	aicpa         = Reference{"AICPA, 2017 Trust Services Criteria (with revised points of focus, 2022), TSP section 100", "https://www.aicpa-cima.com/resources/download/get-the-2017-trust-services-criteria", mappingRead}
	steampipe     = Reference{"Turbot, AWS Compliance mod for Powerpipe (soc_2/cc_6.pp, hipaa_security_rule_2003)", "https://github.com/turbot/steampipe-mod-aws-compliance", mappingRead}
	prowlerSOC2   = Reference{"Prowler, prowler/compliance/aws/soc2_aws.json", "https://github.com/prowler-cloud/prowler/blob/master/prowler/compliance/aws/soc2_aws.json", mappingRead}
	prowlerHIPAA  = Reference{"Prowler, prowler/compliance/aws/hipaa_aws.json", "https://github.com/prowler-cloud/prowler/blob/master/prowler/compliance/aws/hipaa_aws.json", mappingRead}
	ecfr          = Reference{"45 CFR Part 164 Subpart C, Security Rule", "https://www.ecfr.gov/current/title-45/subtitle-A/subchapter-C/part-164/subpart-C", mappingRead}
	ownWords      = "the criterion's own words; no public mapping of this check is known"
	hubTitleKMS12 = "IAM policies do not allow decryption with all keys"
)

// frameworks is the mapping.
func frameworks() []Framework {
	return []Framework{
		{"CIS AWS Foundations Benchmark", "5.0.0, 3.0.0, 1.4.0 and 1.2.0", []Reference{hubKMS, hubCIS, hubEC2, hubSamples}, []Control{
			{ID: "3.6 (v5.0.0, v3.0.0), 3.8 (v1.4.0), 2.8 (v1.2.0)", Title: "Rotation of customer managed keys is enabled", Checks: []CheckID{checkRotation}},
			{ID: "3.5 (v5.0.0, v3.0.0), 3.7 (v1.4.0), 2.7 (v1.2.0)", Title: "CloudTrail logs are encrypted at rest", Checks: []CheckID{checkTrail}},
			{ID: "5.1.1 (v5.0.0), 2.2.1 (v3.0.0, v1.4.0)", Title: "EBS encryption is enabled by default", Checks: []CheckID{checkEBS}},
		}},
		{"AWS Foundational Security Best Practices", "1.0.0", []Reference{hubFSBP, hubKMS}, []Control{
			{ID: "KMS.1", Title: "IAM customer managed policies should not allow decryption actions on all KMS keys", Checks: []CheckID{checkIAMManaged}},
			{ID: "KMS.2", Title: "IAM principals should not have IAM inline policies that allow decryption actions on all KMS keys", Checks: []CheckID{checkIAMInline}},
			{ID: "KMS.3", Title: "AWS KMS keys should not be deleted unintentionally", Checks: []CheckID{checkDeletion}},
			{ID: "KMS.5", Title: "KMS keys should not be publicly accessible", Checks: []CheckID{checkPublic}},
		}},
		{"NIST SP 800-53", "Revision 5", []Reference{hubKMS, hubS3, hubEC2, hubSamples, nist}, nist53()},
		{"PCI DSS", "4.0.1", []Reference{hubKMS, hubS3, hubSamples}, []Control{
			{ID: "3.5.1", Title: "Primary account numbers are unreadable where they are stored", Checks: []CheckID{checkBuckets}},
			{ID: "3.7.4", Title: "Keys are changed at the end of their cryptoperiod", Checks: []CheckID{checkRotation}},
			{ID: "10.3.2", Title: "Audit logs are protected from changes", Checks: []CheckID{checkTrail}},
		}},
		{"SOC 2 (Trust Services Criteria)", "2017, points of focus of 2022", []Reference{aicpa, steampipe, prowlerSOC2}, []Control{
			{ID: "CC6.1", Title: "Logical access to protected information assets: keys are not about to be lost", Checks: []CheckID{checkDeletion}},
			{ID: "CC6.1", Title: "Logical access to protected information assets: keys are open to nobody else", Checks: []CheckID{checkPublic, checkOutside}, Basis: ownWords},
			{ID: "CC7.2", Title: "System components are monitored for anomalies", Checks: []CheckID{checkWatched}, Basis: ownWords},
			{ID: "CC7.4", Title: "Security incidents are responded to", Checks: []CheckID{checkRepaired}, Basis: ownWords},
			{ID: "PI1.5", Title: "Stored data is protected", Checks: []CheckID{checkRotation}},
		}},
		{"HIPAA Security Rule", "45 CFR 164, Subpart C", []Reference{ecfr, prowlerHIPAA, steampipe}, []Control{
			{ID: "164.308(a)(1)(ii)(B)", Title: "Risk management", Checks: []CheckID{checkDeletion}},
			{ID: "164.308(a)(1)(ii)(D)", Title: "Information system activity review", Checks: []CheckID{checkWatched}, Basis: ownWords},
			{ID: "164.312(a)(1)", Title: "Access control", Checks: []CheckID{checkPublic, checkOutside}, Basis: ownWords},
			{ID: "164.312(a)(2)(iv)", Title: "Encryption and decryption", Checks: []CheckID{checkRotation}},
		}},
	}
}

// nist53 are the controls that Security Hub relates to its controls about keys and to
// S3.17, EC2.7 and CloudTrail.2.
func nist53() []Control {
	iam := []CheckID{checkIAMManaged, checkIAMInline}
	data := []CheckID{checkBuckets, checkEBS, checkTrail}
	return []Control{
		{ID: "AC-2, AC-2(1)", Title: "Account management: " + hubTitleKMS12, Checks: iam},
		{ID: "AC-3, AC-3(7), AC-3(15)", Title: "Access enforcement: " + hubTitleKMS12, Checks: iam},
		{ID: "AC-5", Title: "Separation of duties: " + hubTitleKMS12, Checks: iam},
		{ID: "AC-6, AC-6(3)", Title: "Least privilege: " + hubTitleKMS12, Checks: iam},
		{ID: "AU-9", Title: "Protection of audit information", Checks: []CheckID{checkBuckets, checkTrail}},
		{ID: "CA-9(1)", Title: "Internal system connections: compliance checks", Checks: data},
		{ID: "CM-3(6)", Title: "Configuration change control: cryptography management", Checks: data},
		{ID: "SC-7(10)", Title: "Boundary protection: prevent exfiltration", Checks: data},
		{ID: "SC-12", Title: "Cryptographic key establishment and management", Checks: []CheckID{checkDeletion, checkRotation}},
		{ID: "SC-12(2)", Title: "Cryptographic key establishment and management: symmetric keys", Checks: []CheckID{checkDeletion, checkRotation, checkBuckets}},
		{ID: "SC-13", Title: "Cryptographic protection", Checks: data},
		{ID: "SC-28, SC-28(1)", Title: "Protection of information at rest, by cryptography", Checks: data},
		{ID: "SC-28(3)", Title: "Protection of information at rest: cryptographic keys", Checks: []CheckID{checkRotation}},
		{ID: "SI-7(6)", Title: "Software, firmware, and information integrity: cryptographic protection", Checks: data},
	}
}

// Check returns a check of the report.
func (r Report) Check(id CheckID) Check {
	for _, c := range r.Checks {
		if c.ID == id {
			return c
		}
	}
	return Check{ID: id, Status: NotChecked, Summary: "There is no such check."}
}

// Status is a control's status: the worst of its checks.
func (r Report) Status(c Control) Status {
	status := Pass
	for _, id := range c.Checks {
		switch r.Check(id).Status {
		case Fail:
			return Fail
		case NotChecked:
			status = NotChecked
		case Pass:
		}
	}
	if len(c.Checks) == 0 {
		return NotChecked
	}
	return status
}
