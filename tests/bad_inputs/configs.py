"""Configs and options with a mistake."""

from tests.bad_inputs.case import COUNT, TEST, TRAIN, Tool, options
from tests.bad_inputs.spoil import written

__all__ = ["CONFIGS"]

CONFIGS = [
    Tool(
        "no_config",
        "config that is not there",
        "no config file gone.py; give the path of one",
        (TRAIN, "gone.py"),
    ),
    Tool(
        "config_syntax",
        "config that is no Python",
        "bad.py cannot be read (...): mend the config",
        (TRAIN, "bad.py"),
        spoil=written("bad.py", b"model = dict(\n"),
    ),
    Tool(
        "config_base",
        "`_base_` that is not there",
        "bad.py cannot be read ([Errno 2] No such file or directory: "
        "'...gone.py'): mend the config",
        (TRAIN, "bad.py"),
        spoil=written("bad.py", b"_base_ = './gone.py'\n"),
    ),
    Tool(
        "config_part",
        "config without a detector",
        "bad.py has no model, train_dataloader, train_cfg, optim_wrapper: name the "
        "config of a whole detector with its data and schedule",
        (TRAIN, "bad.py"),
        spoil=written("bad.py", b"work_dir = 'here'\n"),
    ),
    Tool(
        "unknown_backbone",
        "unknown backbone",
        "model.backbone (ODResnet): there is no ODResnet; did you mean ODResNet?",
        options("model.backbone.type=ODResnet"),
    ),
    Tool(
        "unknown_layer",
        "unknown layer",
        "model.backbone.dynamic (ODConv): there is no ODConv; did you mean ODConv2d?",
        config="""
            model["backbone"] = dict(
                type="DynamicResNet", depth=18, dynamic=dict(type="ODConv")
            )
        """,
    ),
    Tool(
        "unknown_norm",
        "unknown norm",
        "model.backbone (ODResNet): there is no SynBN; did you mean SyncBN?",
        options("model.backbone.norm_cfg.type=SynBN"),
    ),
    Tool(
        "norm_argument",
        "argument of a norm in another spelling",
        "model.backbone (ODResNet): BatchNorm has no argument momentm: leave it out",
        options(
            "model.backbone.norm_cfg.type=BN", "model.backbone.norm_cfg.momentm=0.1"
        ),
    ),
    Tool(
        "dynamic_argument",
        "layer for a backbone that has its own",
        "model.backbone (ODResNet): there is no argument dynamic: leave it out",
        options("model.backbone.dynamic.type=ODConv2d"),
    ),
    Tool(
        "init_word",
        "`none` for `None`",
        "init_cfg is the word 'none': write None",
        options("model.backbone.init_cfg=none"),
    ),
    Tool(
        "no_epochs",
        "training of no epochs",
        "train_cfg.max_epochs is 0: write a number from 1 on",
        options("train_cfg.max_epochs=0"),
    ),
    Tool(
        "text_batch_size",
        "number in quotes",
        "train_dataloader.batch_size is '2': write a number from 1 on",
        config="train_dataloader['batch_size'] = '2'",
    ),
    Tool(
        "checkpoint_never",
        "checkpoints every 0 epochs",
        "default_hooks.checkpoint (SafeCheckpointHook): interval must not be 0: -1 "
        "saves the last one alone",
        options("default_hooks.checkpoint.interval=0"),
        leaves_work_dir=True,
    ),
    Tool(
        "text_randomness",
        "text for a section",
        "randomness is '0': write randomness=dict(...)",
        config="randomness = '0'",
    ),
    Tool(
        "swapped",
        "checkpoint in front of the config",
        "other.pth is no config: the config comes before the checkpoint",
        (TEST, "other.pth", "tiny.py"),
        spoil=written("other.pth"),
    ),
    Tool(
        "tensorboard",
        "part that needs a package",
        "Please ... install ...",
        config="""
            visualizer = dict(
                type="DetLocalVisualizer",
                vis_backends=[dict(type="TensorboardVisBackend")],
            )
        """,
        leaves_work_dir=True,
    ),
    Tool(
        "custom_imports",
        "import of what is not there",
        "tiny.py cannot be read (custom_imports: No module named 'odconv_dett'): "
        "mend the name, or set PYTHONPATH to the folder that has it",
        config='custom_imports = dict(imports=["odconv_dett"])',
    ),
    Tool(
        "foreign_layer",
        "layer of a project that is not imported",
        "model.backbone.dynamic (MyOwnThing): there is no MyOwnThing: import the "
        "file that registers it with custom_imports",
        config="""
            model["backbone"] = dict(
                type="DynamicResNet", depth=18, dynamic=dict(type="MyOwnThing")
            )
        """,
    ),
    Tool(
        "unknown_argument",
        "argument in another spelling",
        "model.backbone (ODResNet): there is no argument kernelnum; did you mean "
        "kernel_num?",
        options("model.backbone.kernelnum=4"),
    ),
    Tool(
        "kernel_num",
        "`kernel_num=0`",
        "model.backbone (ODResNet): layer1.0.conv1: kernel_num must be an int of "
        "at least 1, got 0",
        options("model.backbone.kernel_num=0"),
    ),
    Tool(
        "reduction",
        "`reduction=2`",
        "model.backbone (ODResNet): layer1.0.conv1: reduction must be in (0, 1], got 2",
        options("model.backbone.reduction=2"),
    ),
    Tool(
        "temperature",
        "temperature of 0",
        "model.backbone (DynamicResNet): layer1.0.conv1: temperature must be above "
        "0 and finite, got 0.0",
        config="""
            model["backbone"] = dict(
                type="DynamicResNet",
                depth=18,
                dynamic=dict(type="DyConv2d", temperature=0.0),
            )
        """,
    ),
    Tool(
        "depth",
        "depth that no ResNet has",
        "model.backbone (ODResNet): depth must be one of [18, 34, 50, 101, 152], "
        "got 20",
        options("model.backbone.depth=20"),
    ),
    Tool(
        "out_indices",
        "`out_indices` out of range",
        "model.backbone (ODResNet): out_indices must be some of [0, 1, 2, 3], got "
        "(0, 1, 2, 4)",
        options("model.backbone.out_indices=(0,1,2,4)"),
    ),
    Tool(
        "frozen_stages",
        "`frozen_stages` out of range",
        "model.backbone (ODResNet): frozen_stages must be in -1 .. 4, got 9",
        options("model.backbone.frozen_stages=9"),
    ),
    Tool(
        "where_word",
        "word that `where` does not know",
        "model.backbone (ODResNet): where knows stages, kernel_sizes, shortcuts, "
        "last_blocks, names, got 'stage'",
        config='model["backbone"]["where"] = dict(stage=(3,))',
    ),
    Tool(
        "where_stage",
        "stage that the network does not have",
        "model.backbone (ODResNet): stages must be some of [0, 1, 2, 3, 4], got (3, 7)",
        config='model["backbone"]["where"] = dict(stages=(3, 7))',
    ),
    Tool(
        "neck_channels",
        "wrong channels of the neck",
        "model.neck.in_channels is [4, 8, 16, 64], but the backbone's maps have "
        "[4, 8, 16, 32] channels: write neck=dict(in_channels=[4, 8, 16, 32])",
        options("model.neck.in_channels=[4,8,16,64]"),
    ),
    Tool(
        "head_channels",
        "wrong channels of a head",
        "model.bbox_head.in_channels is 16, but the neck's maps have 8 channels: "
        "write bbox_head=dict(in_channels=8)",
        options("model.bbox_head.in_channels=16"),
    ),
    Tool(
        "num_classes",
        "head of another number of classes",
        "model.bbox_head.num_classes is 80, but train_dataloader.dataset has 2 "
        "classes: write num_classes=2 there, or name other classes in metainfo",
        options("model.bbox_head.num_classes=80"),
    ),
    Tool(
        "levels",
        "anchors for more maps than the neck gives",
        "model.bbox_head has strides of 3 maps, but the neck gives 2: write "
        "neck=dict(num_outs=3), or as many strides",
        options("model.bbox_head.anchor_generator.strides=[16,32,64]"),
    ),
    Tool(
        "metric_masks",
        "metric of masks for a detector of boxes",
        "val_evaluator.metric has segm, but RetinaNet learns no masks: write "
        "metric='bbox', or take a detector with a mask head",
        options("val_evaluator.metric=segm"),
    ),
    Tool(
        "half_validation",
        "validation without data",
        "the config has val_cfg and val_evaluator but no val_dataloader: the three "
        "go together, give all or set all to None",
        options("val_dataloader=None"),
    ),
    Tool(
        "section_text",
        "word in place of a part",
        "optim_wrapper is 'SGD': write optim_wrapper=dict(...)",
        options("optim_wrapper=SGD"),
    ),
    Tool(
        "hook_text",
        "word in place of a hook",
        "custom_hooks has 'EpochSeedHook': write dict(type=...) for it",
        config='custom_hooks = ["EpochSeedHook"]',
    ),
    Tool(
        "load_from_number",
        "number in place of a path",
        "load_from is 5: write a path",
        options("load_from=5"),
    ),
    Tool(
        "scale_lr_zero",
        "learning rate for no images",
        "auto_scale_lr.base_batch_size is 0: write the number of images that the "
        "learning rate is for",
        options("auto_scale_lr.base_batch_size=0"),
    ),
    Tool(
        "loader_word",
        "argument of a dataloader in another spelling",
        "train_dataloader: there is no argument num_worker; did you mean num_workers?",
        options("train_dataloader.num_worker=2"),
    ),
    Tool(
        "no_batch",
        "batch of more images than there are, with `drop_last`",
        "train_dataloader has 4 images and batches of 8, of which drop_last leaves "
        "none: lower batch_size, or set drop_last=False",
        options(
            "train_dataloader.batch_size=8",
            "train_dataloader.batch_sampler.drop_last=True",
        ),
    ),
    Tool(
        "optimizer",
        "unknown optimizer",
        "optim_wrapper.optimizer (SDG): there is no SDG; did you mean SGD?",
        options("optim_wrapper.optimizer.type=SDG"),
    ),
    Tool(
        "learning_rate",
        "learning rate that is no number",
        "optim_wrapper.optimizer (SGD): TypeError: '<' not supported between "
        "instances of 'str' and 'float'; mend this part of the config (python -X "
        "dev shows the traceback)",
        options("optim_wrapper.optimizer.lr=fast"),
        leaves_work_dir=True,
    ),
    Tool(
        "scheduler",
        "unknown argument of a schedule",
        "param_scheduler.1 (MultiStepLR): there is no argument milestone; did you "
        "mean milestones?",
        options("param_scheduler.1.milestone=[1]"),
        leaves_work_dir=True,
    ),
    Tool(
        "loop",
        "unknown argument of the training loop",
        "train_cfg (EpochBasedTrainLoop): there is no argument max_epoch; did you "
        "mean max_epochs?",
        options("train_cfg.max_epoch=3"),
        leaves_work_dir=True,
    ),
    Tool(
        "hook",
        "unknown hook",
        "custom_hooks.0 (CalibratHook): there is no CalibratHook; did you mean "
        "CalibrateHook?",
        config='custom_hooks = [dict(type="CalibratHook")]',
    ),
    Tool(
        "checkpoint_interval",
        "checkpoints every word",
        "default_hooks.checkpoint (SafeCheckpointHook): interval must be an int, got "
        "'one'",
        options("default_hooks.checkpoint.interval=one"),
        leaves_work_dir=True,
    ),
    Tool(
        "seed",
        "seed that NumPy does not take",
        "randomness.seed is -1: write one from 0 to 4294967295",
        options("randomness.seed=-1"),
    ),
    Tool(
        "hook_argument",
        "value that a hook refuses",
        "custom_hooks.0 (CalibrateHook): images must be an int of at least 2, got 1",
        config='custom_hooks = [dict(type="CalibrateHook", images=1)]',
        leaves_work_dir=True,
    ),
    Tool(
        "dataset",
        "unknown data set",
        "train_dataloader.dataset (CocoDatset): there is no CocoDatset; did you "
        "mean CocoDataset?",
        options("train_dataloader.dataset.type=CocoDatset"),
    ),
    Tool(
        "transform",
        "unknown step of a pipeline",
        "train_dataloader.dataset.pipeline.0 (LoadImage): there is no LoadImage; "
        "did you mean LoadImageFromFile?",
        options("train_dataloader.dataset.pipeline.0.type=LoadImage"),
    ),
    Tool(
        "metric",
        "unknown metric",
        "val_evaluator (CocoMetric): KeyError: metric should be one of 'bbox', "
        "'segm', 'proposal', 'proposal_fast', but got box; mend this part of the "
        "config (python -X dev shows the traceback)",
        options("val_evaluator.metric=box"),
        leaves_work_dir=True,
    ),
    Tool(
        "save_best",
        "best checkpoint by a number that is not computed",
        "save_best is 'bbox_mAP', which val_evaluator does not give; did you mean "
        "coco/bbox_mAP? (it gives coco/bbox_mAP, coco/bbox_mAP_50, ...)",
        options("default_hooks.checkpoint.save_best=bbox_mAP"),
    ),
    Tool(
        "scope",
        "scope that is none",
        "there is no default_scope 'mmdett': write 'mmdet'",
        options("default_scope=mmdett"),
    ),
    Tool(
        "init_text",
        "file in place of `init_cfg`",
        "init_cfg is 'foo.pth': write init_cfg=dict(type='Pretrained', "
        "checkpoint='foo.pth')",
        options("model.backbone.init_cfg=foo.pth"),
    ),
    Tool(
        "default_hook",
        "number in place of a hook",
        "default_hooks has 5: write dict(type=...) for it",
        options("default_hooks.logger=5"),
    ),
    Tool(
        "option_word",
        "`--cfg-options` without a value",
        "--cfg-options: 'depth' is not KEY=VALUE: write it so, without spaces",
        options("depth"),
    ),
    Tool(
        "option_section",
        "`--cfg-options` of a part that is not there",
        "--cfg-options modle.backbone.depth: the config has no modle; did you mean "
        "model?",
        options("modle.backbone.depth=34"),
    ),
    Tool(
        "option_place",
        "`--cfg-options` of a place that is not there",
        "--cfg-options model.backbon.depth: there is no backbon; did you mean "
        "backbone?",
        options("model.backbon.depth=34"),
    ),
    Tool(
        "option_index",
        "`--cfg-options` behind the end of a list",
        "--cfg-options param_scheduler.7.end: the list has 2 items, counted from 0",
        options("param_scheduler.7.end=1"),
    ),
    Tool(
        "option_top",
        "`--cfg-options` that no run reads",
        "--cfg-options lod_from: the config has no lod_from; did you mean load_from?",
        options("lod_from=other.pth"),
    ),
    Tool(
        "amp",
        "`--amp` without a GPU",
        "--amp needs a GPU; leave it out to train on the CPU",
        (TRAIN, "tiny.py", "--amp"),
    ),
    Tool(
        "scale_lr",
        "`--auto-scale-lr` without a base",
        "--auto-scale-lr: tiny.py has no auto_scale_lr.base_batch_size: set it to "
        "the batch size that the learning rate is for",
        (TRAIN, "tiny.py", "--auto-scale-lr"),
        config="auto_scale_lr = dict(enable=False)",
    ),
    Tool(
        "work_dir",
        "work dir that is a file",
        "the work dir tiny.py cannot be written: tiny.py is a file; name another "
        "with --work-dir",
        (TRAIN, "tiny.py", "--work-dir=tiny.py"),
    ),
    Tool(
        "count_config",
        "counting a config with a mistake",
        "model.backbone (ODResNet): there is no argument kernelnum; did you mean "
        "kernel_num?",
        (COUNT, "tiny.py", "--cfg-options", "model.backbone.kernelnum=4"),
    ),
]
