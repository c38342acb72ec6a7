# Made from ../cloudformation/cmkeeper.yaml: UPDATE_DOCS=1 go test ./deploy -run Terraform

locals {
  parameters = {
    AccessReview          = var.access_review
    AlertEmail            = var.alert_email
    AssignPublicIp        = var.assign_public_ip
    ContainAllowedRoles   = var.contain_allowed_roles
    ContainMode           = var.contain_mode
    CpuArchitecture       = var.cpu_architecture
    DataBuckets           = join(",", var.data_buckets)
    DeletionMode          = var.deletion_mode
    DrainSeconds          = tostring(var.drain_seconds)
    FailedUse             = tostring(var.failed_use)
    FixBucketDefault      = tostring(var.fix_bucket_default)
    Image                 = var.image
    LogRetentionDays      = tostring(var.log_retention_days)
    MaxTasks              = tostring(var.max_tasks)
    MinTasks              = tostring(var.min_tasks)
    PolicyMode            = var.policy_mode
    ReencryptAliases      = var.reencrypt_aliases
    ReencryptEngine       = var.reencrypt_engine
    ReencryptEnvelopes    = var.reencrypt_envelopes
    ReencryptMode         = var.reencrypt_mode
    ReencryptRewriteFiles = tostring(var.reencrypt_rewrite_files)
    ReportSchedule        = var.report_schedule
    RotationMode          = var.rotation_mode
    RouteTables           = join(",", var.route_tables)
    SecurityGroup         = var.security_group
    SettingsFile          = var.settings_file
    Subnets               = join(",", var.subnets)
    SweepMinutes          = tostring(var.sweep_minutes)
    TrustedAccounts       = var.trusted_accounts
    TrustedOrgs           = var.trusted_orgs
    VpcEndpoints          = tostring(var.vpc_endpoints)
    VpcId                 = var.vpc_id
  }
}
